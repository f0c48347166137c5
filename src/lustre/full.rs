//! Which OST is full, for a person: a file needs room on each of its OSTs, however much the filesystem as
//! a whole has. Pure.

use std::collections::BTreeMap;

use indicatif::HumanBytes;

use super::layout::Layout;

/// Says which OST of a file has no room left, and how much the others have. `free`: bytes by OST, as far
/// as the client tells them. `None` for a file without objects.
#[must_use]
pub fn describe(layout: &Layout, fsname: &str, free: &BTreeMap<u32, u64>) -> Option<String> {
    let mut own: Vec<u32> =
        layout.plains().flat_map(|plain| &plain.objects).map(|object| object.ost).collect();
    own.sort_unstable();
    own.dedup();
    if own.is_empty() {
        return None;
    }
    let least = own.iter().filter_map(|ost| free.get(ost)).min().copied();
    // Without figures it may be any of them.
    let full: Vec<u32> = own
        .iter()
        .filter(|ost| least.is_none() || free.get(ost).copied() == least)
        .copied()
        .collect();
    let names: Vec<String> = full.iter().map(|ost| format!("OST{ost:04x}")).collect();
    let listed = match (least, names.as_slice()) {
        (Some(bytes), [one]) => format!("{one} ({} free)", HumanBytes(bytes)),
        (Some(bytes), several) => {
            format!("{} ({} free each)", several.join(", "), HumanBytes(bytes))
        }
        (None, [one]) => one.clone(),
        (None, several) => format!("one of {}", several.join(", ")),
    };
    let others: Vec<u64> =
        free.iter().filter(|(ost, _)| !full.contains(ost)).map(|(_, bytes)| *bytes).collect();
    let rest = match (others.iter().min(), others.iter().max()) {
        (Some(one), Some(other)) if one == other => {
            format!("; {} {} free", others_are(others.len()), HumanBytes(*one))
        }
        (Some(least), Some(most)) => format!(
            "; {} {} to {} free",
            others_are(others.len()),
            HumanBytes(*least),
            HumanBytes(*most)
        ),
        _ => String::new(),
    };
    Some(format!("no space left on {listed} of the Lustre filesystem {fsname}{rest}"))
}

fn others_are(count: usize) -> String {
    if count == 1 { "the other one has".to_owned() } else { format!("the other {count} have") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lustre::fields::Count;
    use crate::lustre::layout::{Object, Plain};

    fn on(osts: &[u32]) -> Layout {
        let mut plain = Plain::new(Count(u16::try_from(osts.len()).unwrap()), 1 << 20);
        plain.objects = osts.iter().map(|ost| Object::on(*ost)).collect();
        Layout::Plain(plain)
    }

    #[test]
    fn the_fullest_of_a_files_osts_is_named_and_what_the_others_have() {
        let free = BTreeMap::from([(0, 5 << 30), (1, 9 << 30), (2, 0), (3, 4096), (26, 7 << 30)]);
        assert_eq!(
            describe(&on(&[3, 26, 0]), "lfs01", &free).unwrap(),
            "no space left on OST0003 (4.00 KiB free) of the Lustre filesystem lfs01; the other 4 have 0 B \
             to 9.00 GiB free"
        );
    }

    #[test]
    fn without_figures_every_ost_of_the_file_may_be_meant() {
        let none = BTreeMap::new();
        assert_eq!(
            describe(&on(&[26]), "lfs01", &none).unwrap(),
            "no space left on OST001a of the Lustre filesystem lfs01"
        );
        let several = describe(&on(&[4, 1, 4]), "lfs01", &none).unwrap();
        assert!(several.contains("one of OST0001, OST0004"), "{several}");
        assert_eq!(describe(&on(&[]), "lfs01", &none), None);
    }
}
