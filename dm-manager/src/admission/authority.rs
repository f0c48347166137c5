//! The certificate authorities of the webhook, which all replicas share, and the certificates that each of them
//! has from one. Everything here is made from the time that is given; nothing is written.

use std::time::Duration;

use anyhow::Context as _;
use jiff::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use serde::{Deserialize, Serialize};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// How long an authority is valid, and how long before its end there is to be another one.
const LIFETIME: Duration = Duration::from_secs(3650 * DAY.as_secs());
const SUCCESSOR: Duration = Duration::from_secs(365 * DAY.as_secs());

/// How long a certificate is valid, and after how long it is made anew.
const OF_A_REPLICA: Duration = Duration::from_secs(90 * DAY.as_secs());
const ANEW: Duration = Duration::from_secs(30 * DAY.as_secs());

/// Everything is valid from before it was made: the clock of an API server may be behind.
const EARLIER: Duration = DAY;

/// One authority. It holds a private key, so it has no form for a log.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Authority {
    made: Timestamp,
    /// The certificate, as PEM.
    pub(super) certificate: String,
    key: String,
}

impl Authority {
    fn new(now: Timestamp) -> anyhow::Result<Self> {
        let key = KeyPair::generate().context("failed to make a key")?;
        let mut params = described();
        valid(&mut params, now, LIFETIME);
        let certificate = params.self_signed(&key).context("failed to sign an authority")?;
        Ok(Self { made: now, certificate: certificate.pem(), key: key.serialize_pem() })
    }

    /// Whether others take its certificate at a time.
    fn is_valid(&self, now: Timestamp) -> bool {
        self.made <= now + EARLIER && now < self.made + LIFETIME
    }

    /// A certificate for a replica, under the names that it is asked by, and its key.
    ///
    /// # Errors
    ///
    /// When the authority is damaged, or a name is none.
    pub(super) fn issue(
        &self,
        names: &[String],
        now: Timestamp,
    ) -> anyhow::Result<(CertificateDer<'static>, PrivateKeyDer<'static>)> {
        let authority = KeyPair::from_pem(&self.key).context("an authority's key is none")?;
        let issuer = Issuer::new(described(), authority);
        let mut params = CertificateParams::new(names).context("a name is none")?;
        params.distinguished_name.push(DnType::CommonName, super::NAME);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        // There may be two authorities of the same name.
        params.use_authority_key_identifier_extension = true;
        valid(&mut params, now, OF_A_REPLICA);
        let key = KeyPair::generate().context("failed to make a key")?;
        let certificate = params.signed_by(&key, &issuer).context("failed to sign")?;
        Ok((certificate.der().clone(), PrivateKeyDer::from(key)))
    }
}

/// Whether a certificate that a replica got at one time is to be made anew at another one.
pub(super) fn is_old(issued: Timestamp, now: Timestamp) -> bool {
    now >= issued + ANEW || now + EARLIER < issued
}

/// What is the same in all authorities; their keys tell them apart.
fn described() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, format!("{} authority", super::NAME));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    params
}

fn valid(params: &mut CertificateParams, now: Timestamp, lifetime: Duration) {
    let time = |at: Timestamp| {
        let seconds = u64::try_from(at.as_second()).unwrap_or(0);
        rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(seconds)
    };
    (params.not_before, params.not_after) = (time(now - EARLIER), time(now + lifetime));
}

/// The authorities, oldest first: one, or two while one takes over from another.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Authorities(Vec<Authority>);

impl Authorities {
    /// As they are stored; none when there are none or they cannot be read.
    pub(super) fn parse(stored: &[u8]) -> Option<Self> {
        serde_json::from_slice(stored).ok().filter(|all: &Self| !all.0.is_empty())
    }

    /// As they are to be stored.
    ///
    /// # Errors
    ///
    /// Never, as far as is known.
    pub(super) fn to_bytes(&self) -> anyhow::Result<Vec<u8>> {
        serde_json::to_vec(self).context("authorities have no JSON form")
    }

    /// What they are to be at a time: without those that are over, and with a new one before the last one
    /// is.
    ///
    /// # Errors
    ///
    /// When no key can be made.
    pub(super) fn renewed(before: Option<&Self>, now: Timestamp) -> anyhow::Result<Self> {
        let mut all = before.map(|all| all.0.clone()).unwrap_or_default();
        all.retain(|one| one.is_valid(now));
        if all.last().is_none_or(|newest| now + SUCCESSOR >= newest.made + LIFETIME) {
            all.push(Authority::new(now)?);
        }
        Ok(Self(all))
    }

    /// All certificates, as PEM.
    pub(super) fn bundle(&self) -> String {
        self.certificates().collect()
    }

    /// Their certificates, each as PEM.
    pub(super) fn certificates(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|one| one.certificate.as_str())
    }

    /// The newest one that is trusted already; the oldest one while none is.
    pub(super) fn newest(&self, is_trusted: impl Fn(&Authority) -> bool) -> Option<&Authority> {
        let trusted = self.0.iter().rev().find(|one| is_trusted(one));
        trusted.or_else(|| self.0.first())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(begin: Timestamp, days: u32) -> Timestamp {
        begin + DAY * days
    }

    #[test]
    fn there_is_a_new_authority_before_the_old_one_is_over() {
        let begin: Timestamp = "2026-11-28T00:00:00Z".parse().unwrap();
        let first = Authorities::renewed(None, begin).unwrap();
        assert_eq!(first.certificates().count(), 1);
        for days in [0, 1, 2000, 3650 - 366] {
            let same = Authorities::renewed(Some(&first), after(begin, days)).unwrap();
            assert!(same == first, "after {days} days");
        }
        let both = Authorities::renewed(Some(&first), after(begin, 3650 - 365)).unwrap();
        assert_eq!(both.certificates().count(), 2);
        assert!(both.bundle().starts_with(&first.bundle()), "the old one is trusted as before");
        let again = Authorities::renewed(Some(&both), after(begin, 3649)).unwrap();
        assert!(again == both);
        let last = Authorities::renewed(Some(&both), after(begin, 3650)).unwrap();
        assert_eq!(last.certificates().next(), both.certificates().nth(1));
        assert_eq!(last.certificates().count(), 1);
        // One made by a clock that was far ahead is trusted by nobody yet.
        let early = begin - DAY * 2;
        let other = Authorities::renewed(Some(&first), early).unwrap();
        assert!(other.certificates().all(|one| one != first.bundle()));
    }

    #[test]
    fn a_new_authority_is_used_once_it_is_trusted() {
        let begin: Timestamp = "2026-11-28T00:00:00Z".parse().unwrap();
        let first = Authorities::renewed(None, begin).unwrap();
        let both = Authorities::renewed(Some(&first), after(begin, 3500)).unwrap();
        let [old, new] = both.0.clone().try_into().unwrap_or_else(|_| panic!("two"));
        let chosen = |trusted: &[&Authority]| {
            let chosen = both.newest(|one| trusted.contains(&one)).unwrap();
            chosen.certificate.clone()
        };
        assert_eq!(chosen(&[]), old.certificate);
        assert_eq!(chosen(&[&old]), old.certificate);
        assert_eq!(chosen(&[&old, &new]), new.certificate);
    }

    #[test]
    fn what_is_stored_comes_back_and_what_is_damaged_does_not() {
        let begin: Timestamp = "2026-11-28T00:00:00Z".parse().unwrap();
        let all = Authorities::renewed(None, begin).unwrap();
        let stored = all.to_bytes().unwrap();
        assert!(Authorities::parse(&stored) == Some(all));
        for damaged in [&b""[..], b"[]", b"{}", &stored[..stored.len() / 2]] {
            assert!(Authorities::parse(damaged).is_none());
        }
    }

    #[test]
    fn certificates_are_made_anew_long_before_they_are_over() {
        let begin: Timestamp = "2026-11-28T00:00:00Z".parse().unwrap();
        assert!(!is_old(begin, after(begin, 29)));
        assert!(is_old(begin, after(begin, 30)));
        assert!(is_old(after(begin, 2), begin), "made by a clock that was ahead");
        assert!(ANEW * 2 < OF_A_REPLICA);
    }
}
