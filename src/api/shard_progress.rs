//! How far the shards are that a worker carries out, as its Lease says: the Lease is renewed anyway, so
//! that progress costs no write of its own, however many shards there are. It copies and decides nothing.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use serde::{Deserialize, Serialize};

use super::data_movement_shard::Counters;

/// The annotation of a worker's Lease with its [`Reports`], as JSON. Absent when there are none.
pub const PROGRESS_ANNOTATION: &str = "longshore.dev/progress";

/// As much of the annotation there may be, in bytes: all annotations of an object together may have
/// 256 KiB. It is room for some 400 shards.
pub const LONGEST_REPORTS_BYTES: usize = 128 * 1024;

/// What a worker's Lease says of each of its shards, by the shard's namespace, a slash, and its name.
pub type Reports = BTreeMap<String, ShardProgress>;

/// How far a shard was when its mover last said so. It is about one attempt of one shard, and says nothing
/// of any other.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ShardProgress {
    /// The identity of the shard.
    pub uid: String,
    /// The attempt that is spoken of, as the shard's status counts them.
    pub attempt: i32,
    /// When the counters were read.
    pub time: MicroTime,
    /// How much of it is done; absent as long as nobody knows how much there is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub percent: Option<i32>,
    /// What was done so far.
    pub counters: Counters,
}

/// Writes reports down, as many as there is room for.
#[must_use]
pub fn write_reports<'a>(
    reports: impl IntoIterator<Item = (&'a String, &'a ShardProgress)>,
) -> Option<String> {
    let mut text = String::new();
    for (shard, progress) in reports {
        let name = serde_json::to_string(shard).expect("a name is JSON");
        let progress = serde_json::to_string(progress).expect("texts and numbers are JSON");
        if text.len() + name.len() + progress.len() + 3 > LONGEST_REPORTS_BYTES {
            break;
        }
        text.push(if text.is_empty() { '{' } else { ',' });
        text += &name;
        text.push(':');
        text += &progress;
    }
    (!text.is_empty()).then(|| text + "}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_come_back_as_they_were_and_stay_small() {
        let progress = |bytes: i64| ShardProgress {
            uid: "9b1f7d1c-7f0e-4a55-b0a5-6a2f1d0c3e11".to_owned(),
            attempt: 2,
            time: "2026-11-21T00:00:02.500000Z".parse().map(MicroTime).unwrap(),
            percent: (bytes > 0).then_some(7),
            counters: Counters { bytes, ..Counters::default() },
        };
        assert_eq!(write_reports(&Reports::new()), None);
        let few: Reports =
            (0..3).map(|number| (format!("rabbit-1/copy-{number}"), progress(number))).collect();
        let text = write_reports(&few).unwrap();
        assert_eq!(serde_json::from_str::<Reports>(&text).unwrap(), few);
        let many: Reports =
            (0..9999).map(|number| (format!("rabbit-1/copy-{number}"), progress(1))).collect();
        let text = write_reports(&many).unwrap();
        assert!(text.len() <= LONGEST_REPORTS_BYTES);
        let kept: Reports = serde_json::from_str(&text).unwrap();
        assert!(kept.len() > 350, "{}", kept.len());
    }
}
