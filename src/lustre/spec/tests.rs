//! Words of `lfs setstripe`: what they ask for, what is refused with which advice, and that every
//! layout that has words comes back from them.

use proptest::collection::vec;
use proptest::prelude::*;

use crate::lustre::fields::*;
use crate::lustre::fixtures::{self, bytes};
use crate::lustre::layout::*;
use crate::lustre::words::ranges;

fn layout(spec: &str) -> Layout {
    match Layout::from_spec(spec) {
        Ok(layout) => layout,
        Err(error) => panic!("{spec}: {error}"),
    }
}

fn composite(spec: &str) -> Composite {
    match layout(spec) {
        Layout::Composite(composite) => composite,
        other => panic!("{spec} is not composite: {other:?}"),
    }
}

/// Start, end, stripes, stripe size of each component.
fn shape(spec: &str) -> Vec<(u64, u64, u16, u32)> {
    let shape = |component: &Component| {
        let plain = component.striped().unwrap();
        (component.extent.start, component.extent.end, plain.count.0, plain.stripe_size)
    };
    composite(spec).components.iter().map(shape).collect()
}

const M: u64 = 1 << 20;
const SIZE: u32 = 1 << 20;
const EOF: u64 = Extent::EOF;

#[test]
fn the_examples_of_the_binary_form_in_words() {
    for (words, hex) in [
        ("-c 4 -S 4M", fixtures::SMALLEST_REQUEST),
        ("-E 256M -c 1 -S 4M -p flash -E -1 -c 8", fixtures::DIRECTORY),
    ] {
        assert_eq!(layout(words).request(), bytes(hex), "{words}");
        assert_eq!(layout(words).to_spec(), words);
    }
    for (hex, words) in [
        (fixtures::V1, "-c 1 -S 1M"),
        (fixtures::V3_POOL, "-c 4 -S 4M -p flash"),
        (fixtures::PROGRESSIVE, "-E 4M -c 1 -S 1M -E 64M -c 2 -S 4M -E -1 -c 8"),
        (fixtures::ON_MDT, "-E 1M -L mdt -E -1 -c 4 -S 4M"),
        (fixtures::MIRRORS, "-N -c 1 -S 1M -N -c 1"),
    ] {
        assert_eq!(Layout::parse(&bytes(hex), Of::File).unwrap().to_spec(), words);
    }
}

#[test]
fn options_may_be_long_short_apart_and_attached() {
    for words in [
        "-c 8 -S 4M",
        "-c8 -S4M",
        "--stripe-count=8 --stripe-size 4096K",
        "--stripe_count 8 --stripe_size=4194304",
        "  -S 4m\t-c 8\n",
        "-c 2 -c 8 -S 4M",
    ] {
        assert_eq!(layout(words), Layout::Plain(Plain::new(Count(8), 4 * SIZE)), "{words}");
    }
    assert_eq!(layout("-S 64").to_spec(), "-c 0 -S 64K");
}

#[test]
fn counts_may_be_every_ost_once_or_more() {
    let plain = |spec| match layout(spec) {
        Layout::Plain(plain) => (plain.pattern, plain.count),
        other => panic!("{other:?}"),
    };
    assert_eq!(plain("-c -1"), (Pattern::RAID0, Count::ALL));
    assert_eq!(plain("-C -1"), (Pattern::OVERSTRIPED, Count::ALL));
    assert_eq!(plain("-C -32"), (Pattern::OVERSTRIPED, Count(0xffe0)));
    assert_eq!(plain("-C 100"), (Pattern::OVERSTRIPED, Count(100)));
    assert_eq!(plain("-c 0"), (Pattern::RAID0, Count::DEFAULT));
    assert_eq!(plain("-C 4 -c 4"), (Pattern::RAID0, Count(4)));
}

#[test]
fn a_component_inherits_size_count_and_pool_from_the_one_before() {
    assert_eq!(
        shape("-E 4M -c 2 -S 1M -E 64M -E eof -c -1 -S 4M"),
        [(0, 4 * M, 2, SIZE), (4 * M, 64 * M, 2, SIZE), (64 * M, EOF, 0xffff, 4 * SIZE),]
    );
    let pools = composite("-E 4M -p flash -E 64M -c 4 -E 1G -p disk -E -1 -p inherit");
    let names: Vec<_> = pools
        .components
        .iter()
        .map(|component| component.striped().unwrap().pool().map(|pool| pool.to_string()))
        .collect();
    assert_eq!(names, [Some("flash".into()), Some("flash".into()), Some("disk".into()), None]);
    // The stripe of a component on the MDT is all of it, and passed on, as lfs does.
    assert_eq!(shape("-E 1M -L mdt -E -1 -c 4"), [(0, M, 0, SIZE), (M, EOF, 4, SIZE)]);
}

#[test]
fn extension_space_makes_two_components() {
    let found = composite("-E 1G -z 64M -c 1 -S 4M -E -1 -z 256M -c 4");
    assert_eq!(
        shape("-E 1G -z 64M -c 1 -S 4M -E -1 -z 256M -c 4"),
        [
            (0, 64 * M, 1, 4 * SIZE),
            (64 * M, 1024 * M, 1, 65_536),
            (1024 * M, 1024 * M, 4, 4 * SIZE),
            (1024 * M, EOF, 4, 262_144),
        ]
    );
    let spaces: Vec<_> = found.components.iter().map(Component::extension_bytes).collect();
    assert_eq!(spaces, [None, Some(64 * M), None, Some(256 * M)]);
    assert_eq!(
        Layout::Composite(found.clone()).to_spec(),
        "-E 1G -z 64M -c 1 -S 4M -E -1 -z 256M -c 4"
    );
    // A file that has grown into it asks for the beginning again.
    let mut grown = found.clone();
    grown.components[0].extent.end = 320 * M;
    grown.components[1].extent.start = 320 * M;
    grown.components[2].extent.end = 1280 * M;
    grown.components[3].extent.start = 1280 * M;
    assert_eq!(grown.template(), found);
}

#[test]
fn mirrors_are_counted_and_inherit() {
    let found =
        composite("-N2 -c 2 -S 4M -p flash -N --flags prefer -E 1G -c 1 -E -1 -c 4 -p disk");
    assert_eq!(found.further_mirrors, 2);
    let lengths: Vec<usize> = found.mirrors().map(<[Component]>::len).collect();
    assert_eq!(lengths, [1, 1, 2]);
    assert_eq!(found.components[0].flags, Flags(0));
    assert_eq!((found.components[2].flags, found.components[3].flags), (Flags(6), Flags(6)));
    let words = "-N -c 2 -S 4M -p flash -N -c 2 -N --flags=prefer -E 1G -c 1 -E -1 -c 4 -p disk";
    assert_eq!(Layout::Composite(found).to_spec(), words);
}

#[test]
fn lists_of_osts_are_numbers_and_ranges() {
    let Layout::Plain(plain) = layout("-o 1,4-6,0xb -p flash -S 1M") else { panic!() };
    let osts: Vec<u32> = plain.objects.iter().map(|object| object.ost).collect();
    assert_eq!(osts, [1, 4, 5, 6, 11]);
    assert_eq!(
        (plain.count, plain.start, plain.pattern),
        (Count(5), Start::Ost(1), Pattern::RAID0)
    );
    assert_eq!(Layout::Plain(plain.clone()).to_spec(), "-c 5 -S 1M -p flash -o 1,4-6,11");
    let value = Layout::Plain(plain.clone()).request();
    assert_eq!(value.len(), 48 + 5 * 24);
    assert_eq!(Layout::parse(&value, Of::Directory), Ok(Layout::Plain(plain)));
    let Layout::Plain(twice) = layout("-o 1,1 -o 2 -i 2") else { panic!() };
    assert_eq!((twice.pattern, twice.start), (Pattern::OVERSTRIPED, Start::Ost(2)));
    assert_eq!(ranges([7, 8, 9, 2, 3, 3]), "7-9,2,3,3");
}

#[test]
fn what_is_no_layout_is_refused_with_the_word_and_advice() {
    for (spec, word, advice) in [
        ("", "an empty layout", "-c 4 -S 4M"),
        ("8", "8", "options of lfs setstripe"),
        ("-c", "-c", "a value is missing"),
        ("-c 2001", "-c 2001", "1 to 2000"),
        ("-c +4", "-c +4", "-c 4"),
        ("-c -2", "-c -2", "-C -2"),
        ("-C -33", "-C -33", "-1 to -32"),
        ("-S 5000", "-S 5000", "multiple of 64K"),
        ("-S 4G", "-S 4G", "below 4G"),
        ("--stripe-size=1K", "--stripe-size=1K", "write -S 4M"),
        ("-i 65535", "-i 65535", "0 to 65534"),
        ("-p far_too_long_name", "-p far_too_long_name", "at most 15"),
        ("-p a/b", "-p a/b", "letters"),
        ("-o 4-2", "-o 4-2", "goes up"),
        ("-o 1,,2", "-o 1,,2", "-o 1,4-7"),
        ("-o 0-65534", "-o 0-65534", "2000"),
        ("-c 3 -o 1,2", "-c 3 -o 1,2", "-c 2"),
        ("-i 3 -o 1,2", "-i 3 -o 1,2", "not in the list"),
        ("-c 2 -E 1G", "-E 1G", "write it first"),
        ("-E 100", "-E 100", "multiple of 64K"),
        ("-E 1G -E 1G", "-E 1G -E 1G", "behind the one before it (1G)"),
        ("-E -1 -E 1G", "-E -1 -E 1G", "(EOF)"),
        ("-E 1M -S 4M", "-E 1M -S 4M", "multiple of its stripe size (4M)"),
        ("-E 4M -S 4M -E 6M", "-E 4M -S 4M -E 6M", "(4M)"),
        ("-L mdt", "-L mdt", "-E 1M -L mdt"),
        ("-E -1 -L mdt", "-E -1 -L mdt", "at most 1G"),
        ("-E 1M -L mdt -c 1", "-c 1", "no other options"),
        ("-E 1M -L mdt -o 1", "-o", "no other options"),
        ("-E 1M -c 1 -E -1 -L mdt", "-E 1M -c 1 -E -1 -L mdt", "only the first component"),
        ("-L raid5", "-L raid5", "-L raid0"),
        ("-z 64M", "-z 64M", "write -E before it"),
        ("-E 1G -z 100M -S 64M", "-E 1G -z 100M -S 64M", "multiple of the stripe size"),
        ("-E 64M -z 64M", "-E 64M -z 64M", "less than the component"),
        ("-E 1M -L mdt -z 64K -E -1", "-E -1", "drop -z"),
        ("-E 1G -C -2 -E -1", "-E 1G -C -2 -E -1", "need -C"),
        ("-c 1 -N", "-N", "write -N first"),
        ("-N 2", "2", "options of lfs setstripe"),
        ("-N17", "-N17", "1 to 16"),
        ("-N9 -N8", "-N9 -N8", "at most 16"),
        ("-N4 -o 0-700", "-N4 -o 0-700", "too long"),
        ("--flags prefer", "--flags prefer", "write -N before it"),
        ("-N --flags stale", "--flags stale", "prefer"),
        ("--component-flags nosync", "--component-flags nosync", "write -E before it"),
        ("-d", "-d", "no word of a layout"),
        ("--yaml x", "--yaml", "no word of a layout"),
        ("--", "--", "no word"),
        ("-", "-", "no word"),
        ("-\u{e9}", "-\u{e9}", "no word"),
    ] {
        let error = Layout::from_spec(spec).expect_err(spec);
        assert_eq!(error.word, word, "{spec}: {error}");
        assert!(error.problem.contains(advice), "{spec}: {error}");
    }
}

/// Stripes that words can ask for.
fn any_stripes() -> impl Strategy<Value = Plain> {
    let counts = prop_oneof![
        (0..=2000_u16).prop_map(|count| (Pattern::RAID0, Count(count))),
        Just((Pattern::RAID0, Count::ALL)),
        (1..=32_u16).prop_map(|times| (Pattern::OVERSTRIPED, Count::per_ost(times).unwrap())),
        (0..=2000_u16).prop_map(|count| (Pattern::OVERSTRIPED, Count(count))),
    ];
    let pools = prop_oneof![
        Just(None),
        "[a-z]{1,15}".prop_filter("reserved", |n| n != "inherit").prop_map(Some)
    ];
    let starts = prop_oneof![2 => Just(Start::Any), 1 => (0..=0xfffe_u16).prop_map(Start::Ost)];
    (counts, 0..=16_u32, pools, starts).prop_map(|((pattern, count), units, pool, start)| {
        let mut plain = Plain { pattern, start, ..Plain::new(count, units * 65_536) };
        plain.set_pool(pool.and_then(|name| Pool::new(name.as_bytes())));
        plain
    })
}

fn any_list() -> impl Strategy<Value = Plain> {
    (any_stripes(), vec(0..=0xfffe_u16, 1..20)).prop_map(|(mut plain, osts)| {
        plain.form = Form::Specific(plain.pool().unwrap_or(Pool::NONE));
        plain.count = Count(u16::try_from(osts.len()).unwrap());
        let mut different = osts.clone();
        different.sort_unstable();
        different.dedup();
        if different.len() < osts.len() {
            plain.pattern = Pattern::OVERSTRIPED;
        }
        plain.start = Start::Ost(osts[usize::from(plain.count.0) / 2]);
        plain.objects = osts.into_iter().map(|ost| Object::on(ost.into())).collect();
        plain
    })
}

/// One mirror: components whose ends are multiples of their stripes' sizes.
fn any_mirror() -> impl Strategy<Value = Vec<Component>> {
    let flags = prop_oneof![4 => Just(0_u32), 1 => Just(0x2), 1 => Just(0x6), 1 => Just(0x24)];
    let component = (prop_oneof![4 => any_stripes(), 1 => any_list()], 1..100_u64, flags);
    vec((component, any::<bool>()), 1..5).prop_map(|parts| {
        let (last, mut start) = (parts.len() - 1, 0_u64);
        let mut components = Vec::new();
        for (at, ((plain, units, flags), open)) in parts.into_iter().enumerate() {
            let unit = u64::from(plain.stripe_size.max(65_536));
            let end = if at == last && open { EOF } else { (start / unit + units) * unit };
            let extent = Extent { start, end };
            components.push(Component { flags: Flags(flags), ..Component::new(extent, plain) });
            start = end;
        }
        components
    })
}

fn any_layout() -> impl Strategy<Value = Layout> {
    prop_oneof![
        any_stripes().prop_map(Layout::Plain),
        any_list().prop_map(Layout::Plain),
        vec(any_mirror(), 1..4).prop_map(|mirrors| Layout::Composite(Composite {
            further_mirrors: u16::try_from(mirrors.len() - 1).unwrap(),
            components: mirrors.into_iter().flatten().collect(),
            ..Composite::default()
        })),
    ]
}

proptest! {
    #[test]
    fn layouts_come_back_from_their_words(layout in any_layout()) {
        let words = layout.to_spec();
        prop_assert_eq!(Layout::from_spec(&words), Ok(layout), "{}", words);
    }

    #[test]
    fn any_words_are_an_error_or_a_layout_with_the_same_words(
        words in vec(
            prop_oneof![
                "(-[cCSiopELzN]|--flags|--component-flags)",
                "-?[0-9]{1,4}[KMG]?",
                "(mdt|raid0|prefer|nosync|inherit|ignore|flash|1,4-7|eof|-1|64K|1G)",
                "-N[0-9]?",
            ],
            0..14,
        ),
    ) {
        let spec = words.join(" ");
        if let Ok(layout) = Layout::from_spec(&spec) {
            let canonical = layout.to_spec();
            prop_assert_eq!(Layout::from_spec(&canonical), Ok(layout.clone()), "{}", canonical);
            let value = layout.request();
            prop_assert_eq!(Layout::parse(&value, Of::Directory), Ok(layout), "{}", spec);
        }
    }

    #[test]
    fn any_text_is_an_error_or_a_layout(text in "\\PC{0,40}") {
        let _ = Layout::from_spec(&text);
    }
}
