//! The policies, on layouts in the words of `lfs setstripe` and on those that only files have.

use proptest::prelude::*;

use super::*;
use crate::lustre::fields::{Extent, Flags, Pattern, Pool, Start};
use crate::lustre::fixtures::{self, bytes};
use crate::lustre::layout::{Body, Component, Composite, Foreign, Of};

fn spec(words: &str) -> Layout {
    Layout::from_spec(words).unwrap()
}

fn file(hex: &str) -> Layout {
    Layout::parse(&bytes(hex), Of::File).unwrap()
}

/// A site with so many OSTs and a default.
fn site(osts: u32, default: &str) -> Site {
    Site { osts: Some(osts), default: Some(spec(default)), ..Site::default() }
}

/// The words of what is asked for ("inherit" for nothing), and of the reasons.
fn said(choice: &Choice) -> (String, Vec<&'static str>) {
    let request = choice.request.as_ref().map_or("inherit".to_owned(), Layout::to_spec);
    (request, choice.reasons.iter().map(|reason| reason.word()).collect())
}

fn preserve_at(source: &Layout, bytes: u64, site: &Site) -> (String, Vec<&'static str>) {
    said(&choose(&Policy::Preserve, Some(source), bytes, site, None))
}

#[test]
fn policies_are_words_or_a_layout() {
    assert_eq!("inherit".parse(), Ok(Policy::Inherit));
    assert_eq!("preserve".parse(), Ok(Policy::Preserve));
    assert_eq!(" auto ".parse(), Ok(Policy::Auto));
    assert_eq!("-c 4".parse(), Ok(Policy::Spec(spec("-c 4"))));
    for (text, advice) in [("", "-c 4"), ("automatic", "write inherit"), ("-c x", "1 to 2000")] {
        let error = text.parse::<Policy>().unwrap_err();
        assert!(error.problem.contains(advice), "{error}");
    }
}

#[test]
fn inherit_never_asks_for_anything() {
    let choice = choose(&Policy::Inherit, Some(&spec("-c 4")), 1 << 40, &site(4, "-c 1"), None);
    assert_eq!(said(&choice), ("inherit".to_owned(), vec!["directory-default"]));
}

#[test]
fn an_explicit_layout_is_cut_to_the_osts_and_reaches_the_end_of_the_file() {
    let choice = |words, bytes| {
        said(&choose(&Policy::Spec(spec(words)), None, bytes, &site(4, "-c 1"), None))
    };
    assert_eq!(
        choice("-c 8 -S 4M -p flash", 0),
        ("-c 4 -S 4M -p flash".into(), vec!["as-asked", "fewer-osts"])
    );
    assert_eq!(choice("-C 8", GIB), ("-C 8".into(), vec!["as-asked"]));
    assert_eq!(choice("-c -1", GIB), ("-c -1".into(), vec!["as-asked"]));
    assert_eq!(choice("-o 9,9", GIB), ("-C 2 -o 9,9".into(), vec!["as-asked"]));
    let short = "-E 4M -c 1 -S 1M -E 1G -c 2";
    assert_eq!(choice(short, GIB), (short.to_owned(), vec!["as-asked"]));
    assert_eq!(
        choice(short, GIB + 1),
        ("-E 4M -c 1 -S 1M -E -1 -c 2".into(), vec!["as-asked", "extended"])
    );
}

#[test]
fn preserve_keeps_the_template_and_nothing_of_the_file() {
    let found = preserve_at(&file(fixtures::PROGRESSIVE), GIB, &site(100, "-c 1"));
    let words = "-E 4M -c 1 -S 1M -E 64M -c 2 -S 4M -E -1 -c 8";
    assert_eq!(found, (words.to_owned(), vec!["as-source"]));
    let fewer = preserve_at(&file(fixtures::PROGRESSIVE), GIB, &site(4, "-c 1"));
    assert_eq!(fewer.0, "-E 4M -c 1 -S 1M -E 64M -c 2 -S 4M -E -1 -c 4");
    assert_eq!(fewer.1, ["as-source", "fewer-osts"]);
    let none = choose(&Policy::Preserve, None, GIB, &site(4, "-c 1"), None);
    assert_eq!(said(&none), ("inherit".to_owned(), vec!["no-source-layout"]));
}

#[test]
fn preserve_leaves_out_pools_that_were_not_seen_there() {
    let source = file(fixtures::V3_POOL);
    let mut there = site(100, "-c 1");
    assert_eq!(
        preserve_at(&source, GIB, &there),
        ("-c 4 -S 4M".into(), vec!["as-source", "pool-unknown"])
    );
    there.learn_pools(&spec("-c 1 -p flash"));
    assert_eq!(
        preserve_at(&source, GIB, &there),
        ("-c 4 -S 4M -p flash".into(), vec!["as-source"])
    );
    let same = Site { same_filesystem: true, ..site(100, "-c 1") };
    assert_eq!(preserve_at(&source, GIB, &same).1, ["as-source"]);
    let ignoring = spec("-c 4 -S 4M -p ignore");
    assert_eq!(preserve_at(&ignoring, GIB, &site(100, "-c 1")).0, "-c 4 -S 4M -p ignore");
}

#[test]
fn preserve_does_not_keep_stripes_that_stay_empty() {
    let wide = spec("-c 8 -S 4M");
    let stripes = |bytes| preserve_at(&wide, bytes, &site(100, "-c 2 -S 1M"));
    for (bytes, words) in [
        (0, "-c 1 -S 4M"),
        (1, "-c 1 -S 4M"),
        (4 * MIB, "-c 1 -S 4M"),
        (4 * MIB + 1, "-c 2 -S 4M"),
        (28 * MIB - 1, "-c 7 -S 4M"),
        (28 * MIB, "-c 8 -S 4M"),
    ] {
        assert_eq!(stripes(bytes).0, words, "{bytes}");
    }
    let all = spec("-c -1 -S 1M");
    assert_eq!(
        preserve_at(&all, MIB, &site(100, "-c 2")),
        ("-c 1 -S 1M".into(), vec!["as-source", "narrowed"])
    );
    assert_eq!(preserve_at(&all, GIB, &site(100, "-c 2")).0, "-c -1 -S 1M");
    assert_eq!(preserve_at(&all, GIB, &Site::default()).0, "-c -1 -S 1M");
}

#[test]
fn preserve_asks_for_nothing_where_the_default_does_the_same() {
    let source = file(fixtures::PROGRESSIVE);
    let same = "-E 4M -c 1 -S 1M -E 64M -c 2 -S 4M -E -1 -c 8";
    assert_eq!(
        preserve_at(&source, GIB, &site(9, same)),
        ("inherit".into(), vec!["same-as-default"])
    );
    // Only the parts that the file reaches matter, and a single stripe has no size.
    let alike = "-E 16M -c 1 -S 4M -E -1 -c -1";
    assert_eq!(preserve_at(&source, 4 * MIB, &site(9, alike)).0, "inherit");
    assert_ne!(preserve_at(&source, 4 * MIB + 1, &site(9, alike)).0, "inherit");
    assert_eq!(preserve_at(&spec("-c 1 -S 1M"), GIB, &site(9, "-c 1 -S 4M")).0, "inherit");
    assert_ne!(preserve_at(&spec("-c 1 -p x"), GIB, &site(9, "-c 1")).0, "");
    assert_ne!(preserve_at(&spec("-c 2 -S 1M"), GIB, &site(9, "-c 2 -S 4M")).0, "inherit");
    assert_ne!(preserve_at(&spec("-c 1"), GIB, &site(9, "-N2 -c 1")).0, "inherit");
}

#[test]
fn one_stripe_for_a_small_file_is_not_asked_for_where_nobody_configured_a_default() {
    let nowhere = Site::default();
    assert_eq!(
        preserve_at(&spec("-c 1 -S 1M"), MIB, &nowhere),
        ("inherit".into(), vec!["small-file"])
    );
    assert_eq!(preserve_at(&spec("-c 1 -S 1M"), MIB + 1, &nowhere).0, "-c 1 -S 1M");
    assert_eq!(preserve_at(&spec("-c 1 -p ignore"), 1, &nowhere).0, "-c 1 -p ignore");
}

#[test]
fn preserve_keeps_one_mirror_that_is_up_to_date() {
    let (words, reasons) = preserve_at(&file(fixtures::MIRRORS), GIB, &site(9, "-c 2"));
    assert_eq!(
        (words.as_str(), reasons),
        ("-c 1 -S 1M", vec!["as-source", "stale-mirror-dropped"])
    );
    let prefer = spec("-N -c 1 -N --flags prefer -c 4 -S 1M -N -c 2");
    let (words, reasons) = preserve_at(&prefer, GIB, &site(9, "-c 2"));
    assert_eq!((words.as_str(), reasons), ("-c 4 -S 1M", vec!["as-source", "mirrors-dropped"]));
    let Layout::Composite(mut stale) = file(fixtures::MIRRORS) else { panic!() };
    stale.components[0].flags = Flags(0x11);
    let (words, reasons) = preserve_at(&Layout::Composite(stale), GIB, &site(9, "-c 2"));
    assert_eq!(
        (words.as_str(), reasons),
        ("inherit", vec!["no-source-layout", "stale-mirror-dropped"])
    );
}

#[test]
fn preserve_keeps_data_on_the_mdt_only_where_that_is_usual() {
    let source = file(fixtures::ON_MDT);
    let (words, reasons) = preserve_at(&source, GIB, &site(9, "-c 2"));
    assert_eq!((words.as_str(), reasons), ("-E -1 -c 4 -S 4M", vec!["as-source", "mdt-dropped"]));
    let usual = site(9, "-E 64K -L mdt -E -1 -c 1");
    assert_eq!(preserve_at(&source, GIB, &usual).0, "-E 1M -L mdt -E -1 -c 4 -S 4M");
    let only = spec("-E 1M -L mdt");
    assert_eq!(preserve_at(&only, 5, &site(9, "-c 2")).0, "inherit");
}

#[test]
fn preserve_leaves_the_osts_to_the_servers() {
    let (words, reasons) = preserve_at(&spec("-c 2 -i 7"), GIB, &site(9, "-c 1"));
    assert_eq!((words.as_str(), reasons), ("-c 2", vec!["as-source", "start-removed"]));
    let (words, reasons) = preserve_at(&spec("-o 3,4 -p x"), GIB, &site(9, "-c 1"));
    assert_eq!(words, "-c 2");
    assert_eq!(reasons, ["as-source", "ost-list-removed", "pool-unknown"]);
}

#[test]
fn preserve_drops_what_the_destination_may_not_know() {
    let mut coded = spec("-N -c 4 -S 1M -N -c 2");
    if let Layout::Composite(coded) = &mut coded {
        coded.components[1].flags = Flags::PARITY;
        coded.components[0].flags = Flags::COMPRESS;
        coded.components[0].compression = [1, 2];
    }
    coded.plains_mut().next().unwrap().pattern = Pattern(0x801);
    let choice = choose(&Policy::Preserve, Some(&coded), GIB, &site(9, "-c 1"), None);
    assert_eq!(said(&choice).1, ["as-source", "parity-dropped", "compression-dropped"]);
    assert_eq!(choice.request, Some(spec("-c 4 -S 1M")));

    let mut unknown = spec("-c 4");
    unknown.plains_mut().next().unwrap().pattern = Pattern(0x2001);
    let found = preserve_at(&unknown, GIB, &site(9, "-c 1"));
    assert_eq!(found, ("inherit".to_owned(), vec!["no-source-layout", "unknown-pattern"]));

    let foreign = Foreign { kind: 1, flags: 0, value: vec![1] };
    let whole = Layout::Foreign(foreign.clone());
    assert_eq!(
        preserve_at(&whole, GIB, &site(9, "-c 1")).1,
        ["no-source-layout", "foreign-dropped"]
    );
    // A mirror in an archive beside one on objects.
    let Layout::Composite(mut archived) = spec("-N2 -c 4 -S 1M") else { panic!() };
    archived.components[1] =
        Component { body: Body::Foreign(foreign), ..archived.components[1].clone() };
    let found = preserve_at(&Layout::Composite(archived), GIB, &site(9, "-c 1"));
    assert_eq!(found, ("-c 4 -S 1M".to_owned(), vec!["as-source", "foreign-dropped"]));
}

#[test]
fn a_released_source_is_asked_for_without_the_mark() {
    let mut released = file(fixtures::V3_POOL);
    for plain in released.plains_mut() {
        plain.pattern = plain.pattern.released();
        plain.objects.clear();
    }
    assert_eq!(preserve_at(&released, GIB, &site(9, "-c 1")).0, "-c 4 -S 4M");
}

#[test]
fn auto_goes_by_size() {
    let auto = |bytes, site: &Site| said(&choose(&Policy::Auto, None, bytes, site, None));
    let eighty = site(80, "-c 1");
    for (bytes, words) in [
        (0, "inherit"),
        (MIB, "inherit"),
        (GIB, "inherit"),
        (GIB + 1, "-c 2 -S 4M"),
        (4 * GIB, "-c 3 -S 4M"),
        (49 * GIB, "-c 8 -S 4M"),
        (100 * GIB, "-c 8 -S 4M"),
        (101 * GIB, "-c 11 -S 4M"),
        (10 << 40, "-c 80 -S 4M"),
    ] {
        assert_eq!(auto(bytes, &eighty).0, words, "{bytes}");
    }
    assert_eq!(auto(101 * GIB, &Site::default()).0, "-c 8 -S 4M");
    assert_eq!(auto(160 << 40, &Site::default()).0, "-c 10 -S 4M");
    assert_eq!(auto(4 * GIB, &site(2, "-c 1")).0, "-c 2 -S 4M");
    // A wide default is narrowed for what is small, and kept for what is large.
    assert_eq!(auto(GIB, &site(80, "-c -1")), ("-c 1 -S 4M".into(), vec!["by-size"]));
    assert_eq!(auto(GIB, &site(80, "-c 4")).0, "-c 1 -S 4M");
    assert_eq!(auto(4 * GIB, &site(80, "-c 4")), ("inherit".into(), vec!["wide-enough"]));
    assert_eq!(auto(4 * GIB, &site(80, "-c -1")).0, "inherit");
    assert_eq!(
        auto(1 << 40, &site(80, "-E 1G -c 1 -E -1 -c 8")),
        ("inherit".into(), vec!["composite-default"])
    );
    let large_requests = Site { rpc_bytes: Some(16 << 20), ..site(80, "-c 1") };
    assert_eq!(auto(4 * GIB, &large_requests).0, "-c 3 -S 16M");
}

#[test]
fn auto_asks_the_sites_table_first() {
    let table = Table::parse("1M inherit\n1G -c 2\n100G -c 8 -S 4M").unwrap();
    let auto = |bytes| said(&choose(&Policy::Auto, None, bytes, &site(4, "-c 1"), Some(&table)));
    assert_eq!(auto(MIB), ("inherit".into(), vec!["by-site-table"]));
    assert_eq!(auto(GIB), ("-c 2".into(), vec!["by-site-table"]));
    assert_eq!(auto(GIB + 1), ("-c 4 -S 4M".into(), vec!["by-site-table", "fewer-osts"]));
    assert_eq!(auto(200 * GIB).1, ["by-size"]);
}

#[test]
fn a_directorys_default_is_kept_only_where_it_is_its_own() {
    let (own, root) = (spec("-c 4 -p x -i 3"), spec("-c 1"));
    assert_eq!(explicit_default(Some(&own), Some(&root)), Some(own.clone()));
    assert_eq!(explicit_default(Some(&root), Some(&root)), None);
    assert_eq!(explicit_default(None, Some(&root)), None);
    assert_eq!(explicit_default(Some(&own), None), Some(own.clone()));
    let there = site(2, "-c 1");
    let found = preserved_default(Some(&own), Some(&root), &there);
    assert_eq!(said(&found).0, "-c 2");
    assert_eq!(said(&found).1, ["as-source", "start-removed", "pool-unknown", "fewer-osts"]);
    assert_eq!(said(&preserved_default(Some(&root), Some(&root), &there)).0, "inherit");
    let same = preserved_default(Some(&spec("-c 2")), Some(&root), &site(4, "-c 2"));
    assert_eq!(said(&same), ("inherit".into(), vec!["same-as-default"]));
}

#[test]
fn reasons_have_words_of_their_own_and_say_the_numbers() {
    let reason = Reason::FewerOsts { asked: 8, osts: 4 };
    assert_eq!(reason.to_string(), "8 stripes asked, 4 OSTs: 4");
    let reason = Reason::PoolUnknown(Pool::new(b"flash").unwrap());
    assert_eq!(reason.to_string(), "pool flash is not known there: left out");
}

fn any_source() -> impl Strategy<Value = Layout> {
    let plain = (0..3000_u16, 0..64_u32, 0..5_u32, prop::option::of("[a-c]{1,2}"), any::<bool>());
    let plain = plain.prop_map(|(count, units, pattern, pool, pinned)| {
        let pattern = Pattern([0x1, 0x201, 0x100, 0x801, 0x8000_0001][pattern as usize]);
        let mut plain = Plain { pattern, ..Plain::new(Count(count), units * 65_536) };
        plain.set_pool(pool.and_then(|name| Pool::new(name.as_bytes())));
        plain.start = if pinned { Start::Ost(3) } else { Start::Generation(1) };
        plain
    });
    let component =
        (plain.clone(), 1..50_u64, prop_oneof![Just(0x10), Just(0x11), Just(0), Just(0x90)]);
    let mirror = prop::collection::vec(component, 1..5);
    let composite = prop::collection::vec(mirror, 1..4).prop_map(|mirrors| {
        let mut components = Vec::new();
        for mirror in &mirrors {
            let mut start = 0;
            for (plain, units, flags) in mirror {
                let end = start + units * 65_536 * 1024;
                let component = Component::new(Extent { start, end }, plain.clone());
                components.push(Component { flags: Flags(*flags), ..component });
                start = end;
            }
        }
        let further_mirrors = u16::try_from(mirrors.len() - 1).unwrap();
        Layout::Composite(Composite { further_mirrors, components, ..Composite::default() })
    });
    prop_oneof![plain.prop_map(Layout::Plain), composite]
}

proptest! {
    #[test]
    fn whatever_the_source_the_request_is_one_that_servers_take(
        source in any_source(),
        bytes in prop_oneof![0..10 * MIB, 0..200 * GIB],
        osts in prop::option::of(1..200_u32),
    ) {
        let there = Site { osts, ..Site::default() };
        for policy in [Policy::Preserve, Policy::Auto] {
            let choice = choose(&policy, Some(&source), bytes, &there, None);
            prop_assert!(!choice.reasons.is_empty());
            let Some(request) = choice.request else { continue };
            let value = request.compose();
            prop_assert_eq!(&request.request(), &value, "clean");
            prop_assert_eq!(Layout::parse(&value, Of::Directory), Ok(request.clone()));
            for plain in request.plains() {
                prop_assert_eq!(plain.start, Start::Any);
                prop_assert_eq!(plain.pool(), None);
                if let (Some(osts), Pattern::RAID0) = (osts, plain.pattern) {
                    prop_assert!(u32::from(plain.count.0) <= osts || plain.count.0 > 0xffdf);
                }
            }
            if let Layout::Composite(composite) = &request {
                prop_assert_eq!(composite.mirrors().count(), 1);
                prop_assert!(composite.components.last().unwrap().extent.end >= bytes);
                prop_assert_eq!(composite.components[0].extent.start, 0);
            }
        }
    }
}
#[test]
fn extension_space_without_a_size_stays_one_mirror() {
    let Layout::Composite(mut odd) = spec("-E 1G -z 64M -c 1 -S 4M -E -1 -c 2") else { panic!() };
    let Body::Striped(space) = &mut odd.components[1].body else { panic!() };
    space.stripe_size = 0;
    let odd = Layout::Composite(odd);
    assert_eq!(odd.template(), odd, "what cannot begin again is left alone");
    let choice = choose(&Policy::Preserve, Some(&odd), GIB, &site(4, "-c 1"), None);
    assert_eq!(choice.request, Some(odd));
}

#[test]
fn extension_space_that_is_extended_begins_with_one_extension() {
    let Layout::Composite(mut short) = spec("-E 1G -z 64M -c 1 -S 4M") else { panic!() };
    short.components[0].extent.end = 256 * MIB;
    short.components[1].extent = Extent { start: 256 * MIB, end: 512 * MIB };
    let Body::Striped(space) = &mut short.components[1].body else { panic!() };
    space.stripe_size = 1 << 20; // KiB: longer than the component
    let choice =
        choose(&Policy::Preserve, Some(&Layout::Composite(short)), GIB, &site(4, "-c 2"), None);
    let request = choice.request.unwrap();
    assert_eq!(request.to_spec(), "-E -1 -z 1G -c 1 -S 4M");
    assert_eq!(request.template(), request);
}
