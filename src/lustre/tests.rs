//! The layout model on the byte examples, on made-up layouts of every shape, and on values with
//! wrong bytes.

use proptest::collection::vec;
use proptest::prelude::*;

use super::fields::*;
use super::fixtures::{self, bytes};
use super::layout::*;

fn parse(hex: &str, of: Of) -> Layout {
    let value = bytes(hex);
    let layout = Layout::parse(&value, of).unwrap();
    assert_eq!(layout.compose(), value, "every byte comes back");
    layout
}

fn plain(hex: &str, of: Of) -> Plain {
    match parse(hex, of) {
        Layout::Plain(plain) => plain,
        other => panic!("not plain: {other:?}"),
    }
}

fn composite(hex: &str, of: Of) -> Composite {
    match parse(hex, of) {
        Layout::Composite(composite) => composite,
        other => panic!("not composite: {other:?}"),
    }
}

fn pool(name: &str) -> Pool {
    Pool::new(name.as_bytes()).unwrap()
}

const MIB: u64 = 1 << 20;

#[test]
fn a_single_stripe_with_an_object_of_the_old_numbering() {
    let expected = Plain {
        form: Form::V1,
        pattern: Pattern::RAID0,
        owner: [2, 0x2_0000_0401],
        stripe_size: 1 << 20,
        count: Count(1),
        start: Start::Generation(0xffff),
        objects: vec![Object { id: [0x1a2b, 0], generation: 0, ost: 3 }],
    };
    assert_eq!(plain(fixtures::V1, Of::File), expected);
}

#[test]
fn a_pool_and_objects_with_identities_of_the_new_kind() {
    let object = |n: u64| Object {
        id: [0x2_8000_0401 + n * 0x4000_0000, 0x10 + n],
        generation: 0,
        ost: 4 + u32::try_from(n).unwrap(),
    };
    let expected = Plain {
        form: Form::V3(pool("flash")),
        pattern: Pattern::RAID0,
        owner: [2, 0x2_0000_0401],
        stripe_size: 4 << 20,
        count: Count(4),
        start: Start::Generation(0xffff),
        objects: (0..4).map(object).collect(),
    };
    assert_eq!(plain(fixtures::V3_POOL, Of::File), expected);
}

fn component(id: u32, flags: u32, extent: (u64, u64), body: Plain) -> Component {
    let extent = Extent { start: extent.0, end: extent.1 };
    Component { id, flags: Flags(flags), ..Component::new(extent, body) }
}

fn stripes(count: u16, mib: u32, objects: &[(u64, u32)]) -> Plain {
    let object = |(id, ost): &(u64, u32)| Object { id: [*id, 0], generation: 0, ost: *ost };
    Plain {
        start: Start::Generation(0xffff),
        objects: objects.iter().map(object).collect(),
        ..Plain::new(Count(count), mib << 20)
    }
}

#[test]
fn a_progressive_layout_whose_last_component_waits_for_its_objects() {
    let expected = Composite {
        generation: 3,
        components: vec![
            component(1, 0x10, (0, 4 * MIB), stripes(1, 1, &[(0x55, 0)])),
            component(2, 0x10, (4 * MIB, 64 * MIB), stripes(2, 4, &[(0x56, 1), (0x57, 2)])),
            component(3, 0, (64 * MIB, Extent::EOF), stripes(8, 4, &[])),
        ],
        ..Composite::default()
    };
    let found = composite(fixtures::PROGRESSIVE, Of::File);
    assert_eq!(found, expected);
    assert_eq!(found.mirrors().count(), 1);
    assert_eq!(found.state(), MirrorState::None);
}

#[test]
fn the_beginning_on_the_metadata_server() {
    let mdt = Plain { pattern: Pattern::MDT, ..stripes(0, 1, &[]) };
    let expected = Composite {
        generation: 1,
        components: vec![
            component(1, 0x10, (0, MIB), mdt),
            component(2, 0, (MIB, Extent::EOF), stripes(4, 4, &[])),
        ],
        ..Composite::default()
    };
    assert_eq!(composite(fixtures::ON_MDT, Of::File), expected);
}

#[test]
fn a_default_of_a_directory_is_also_its_own_request() {
    let part = |count| Plain {
        form: Form::V3(pool("flash")),
        start: Start::Any,
        ..stripes(count, 4, &[])
    };
    let expected = Composite {
        components: vec![
            component(0, 0, (0, 256 * MIB), part(1)),
            component(0, 0, (256 * MIB, Extent::EOF), part(8)),
        ],
        ..Composite::default()
    };
    let found = composite(fixtures::DIRECTORY, Of::Directory);
    assert_eq!(found, expected);
    assert_eq!(Layout::Composite(found).request(), bytes(fixtures::DIRECTORY));
}

#[test]
fn mirrors_of_which_one_is_stale() {
    let expected = Composite {
        generation: 4,
        flags: 2,
        further_mirrors: 1,
        components: vec![
            component(0x10001, 0x10, (0, Extent::EOF), stripes(1, 1, &[(0x91, 0)])),
            component(0x20002, 0x11, (0, Extent::EOF), stripes(1, 1, &[(0x92, 5)])),
        ],
        ..Composite::default()
    };
    let found = composite(fixtures::MIRRORS, Of::File);
    assert_eq!(found, expected);
    assert_eq!(found.state(), MirrorState::WritePending);
    let mirrors: Vec<u16> = found.mirrors().map(|mirror| mirror[0].mirror()).collect();
    assert_eq!(mirrors, [1, 2]);
}

#[test]
fn the_smallest_request() {
    let expected = Plain::new(Count(4), 4 << 20);
    assert_eq!(plain(fixtures::SMALLEST_REQUEST, Of::Directory), expected);
    let all = Layout::Plain(Plain::new(Count::ALL, 4 << 20)).request();
    let hex = fixtures::SMALLEST_REQUEST.replace("0400ffff", "ffffffff");
    assert_eq!(all, bytes(&hex));
}

#[test]
fn a_request_has_nothing_of_the_file_that_it_was_read_from() {
    let request = |hex| Layout::parse(&bytes(hex), Of::File).unwrap().request();
    let pooled = Layout::parse(&request(fixtures::V3_POOL), Of::Directory).unwrap();
    let mut expected = Plain::new(Count(4), 4 << 20);
    expected.set_pool(Some(pool("flash")));
    assert_eq!(pooled, Layout::Plain(expected));

    let Layout::Composite(mirrors) =
        Layout::parse(&request(fixtures::MIRRORS), Of::Directory).unwrap()
    else {
        panic!("mirrors stay mirrors")
    };
    assert_eq!((mirrors.generation, mirrors.flags, mirrors.further_mirrors), (0, 0, 1));
    for component in &mirrors.components {
        assert_eq!((component.id, component.flags), (0, Flags(0)));
        assert_eq!(component.striped(), Some(&Plain::new(Count(1), 1 << 20)));
    }
}

#[test]
fn only_a_first_ost_that_was_asked_for_is_asked_for_again() {
    let asked = Plain { start: Start::Ost(7), ..Plain::new(Count(2), 0) };
    let read = Plain { start: Start::Generation(7), ..asked.clone() };
    assert_eq!(asked.template(), asked);
    assert_eq!(read.template().start, Start::Any);
}

#[test]
fn a_released_file_keeps_its_stripes_and_may_lack_their_objects() {
    let released = Plain { pattern: Pattern::RAID0.released(), ..stripes(4, 4, &[]) };
    let layout = Layout::Plain(released.clone());
    assert_eq!(Layout::parse(&layout.compose(), Of::File), Ok(layout.clone()));
    assert!(layout.is_released());
    assert!(!layout.template().is_released());
    let empty = Plain { objects: vec![Object::on(0); 4], ..released.clone() };
    assert!(Layout::parse(&Layout::Plain(empty).compose(), Of::File).is_ok());
    let some = Plain { objects: vec![Object::on(0); 3], ..released };
    assert!(Layout::parse(&Layout::Plain(some).compose(), Of::File).is_err());
}

#[test]
fn the_marks_of_servers_on_a_magic_number_do_not_matter() {
    for (hex, magic) in [(fixtures::V1, 0x1bd1_0bd0_u32), (fixtures::PROGRESSIVE, 0x0bd8_0bd0)] {
        let mut value = bytes(hex);
        let expected = Layout::parse(&value, Of::File).unwrap();
        value[..4].copy_from_slice(&magic.to_ne_bytes());
        assert_eq!(Layout::parse(&value, Of::File), Ok(expected));
    }
}

/// Replaces bytes of an example and returns what the parser says.
fn spoiled(hex: &str, at: usize, with: &[u8], of: Of) -> (usize, Problem) {
    let mut value = bytes(hex);
    value[at..at + with.len()].copy_from_slice(with);
    let error = Layout::parse(&value, of).unwrap_err();
    (error.offset, error.problem)
}

#[test]
fn what_is_wrong_is_said_with_its_place() {
    use Problem as P;
    use fixtures as f;
    let file = |hex, at, with: &[u8]| spoiled(hex, at, with, Of::File);
    let size = 1_048_577_u32;
    for (found, expected) in [
        (file(f::V1, 0, &0x0bd9_0bd0_u32.to_le_bytes()), (0, P::Magic(0x0bd9_0bd0))),
        (file(f::V1, 0, &0x0bd2_0bd0_u32.to_le_bytes()), (0, P::Obsolete(0x0bd2_0bd0))),
        (file(f::V1, 0, &0x0bd1_0bd0_u32.to_be_bytes()), (0, P::ByteSwapped)),
        (file(f::V1, 24, &size.to_le_bytes()), (24, P::StripeSize(size))),
        (file(f::V1, 24, &[0; 4]), (24, P::StripeSize(0))),
        (file(f::V1, 28, &[2, 0]), (28, P::Objects { objects: 1, stripes: 2 })),
        (file(f::V1, 28, &[0, 0]), (28, P::NoStripes)),
        (file(f::V1, 28, &[0xff; 2]), (28, P::Objects { objects: 1, stripes: 0xffff })),
        (file(f::V3_POOL, 32, &[b'a'; 16]), (32, P::Pool)),
        (file(f::PROGRESSIVE, 4, &31_u32.to_le_bytes()), (4, P::Size { declared: 31, value: 344 })),
        (file(f::PROGRESSIVE, 4, &[0xff; 4]), (4, P::Size { declared: 0xffff_ffff, value: 344 })),
        (file(f::PROGRESSIVE, 14, &[0, 0]), (14, P::NoComponents)),
        (file(f::PROGRESSIVE, 14, &[0xff; 2]), (14, P::Truncated("list of components"))),
        (file(f::PROGRESSIVE, 16, &[1, 0]), (16, P::Mirrors { declared: 2, found: 1 })),
        // The second component begins later, ends earlier, lies elsewhere.
        (
            file(f::PROGRESSIVE, 0x58, &(5 * MIB).to_le_bytes()),
            (0x58, P::NotAdjacent { start: 5 * MIB, before: 4 * MIB }),
        ),
        (
            file(f::PROGRESSIVE, 0x60, &MIB.to_le_bytes()),
            (0x58, P::Backwards { start: 4 * MIB, end: MIB }),
        ),
        (file(f::PROGRESSIVE, 0x68, &[0xe7]), (0x68, P::Blob { start: 0xe7, end: 0x137 })),
        (
            file(f::PROGRESSIVE, 0x6c, &[0xff; 4]),
            (0x68, P::Blob { start: 0xe8, end: 0x1_0000_00e7 }),
        ),
        // A component that has its objects, said not to have them; and one within another.
        (file(f::PROGRESSIVE, 0x24, &[0]), (0xb0 + 28, P::Objects { objects: 1, stripes: 1 })),
        (file(f::PROGRESSIVE, 0x138 + 2, &[0xd6]), (0x138, P::Magic(0x0bd6_0bd0))),
        (file(f::ON_MDT, 0x80 + 28, &[2]), (0x80 + 28, P::Objects { objects: 0, stripes: 2 })),
    ] {
        assert_eq!(found, expected);
    }
}

#[test]
fn a_value_that_ends_anywhere_is_an_error_and_more_than_an_attribute_holds_as_well() {
    for (name, hex) in fixtures::ALL {
        let value = bytes(hex);
        for of in [Of::File, Of::Directory] {
            for end in 0..value.len() {
                // In a directory's value objects may be missing altogether.
                let whole = of == Of::Directory && (end == 32 || end == 48 || end % 24 == 0);
                let found = Layout::parse(&value[..end], of);
                assert!(found.is_err() || whole, "{name} up to {end}: {found:?}");
            }
        }
    }
    let long = vec![0; MAX_BYTES + 1];
    let error = Layout::parse(&long, Of::File).unwrap_err();
    assert_eq!(error.problem, Problem::TooLong);
}

#[test]
fn the_fuzzer_starts_from_the_examples() {
    let seeds = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds/layout");
    for (name, hex) in fixtures::ALL {
        assert_eq!(std::fs::read(seeds.join(name)).unwrap(), bytes(hex), "{name}");
    }
}

fn any_pool() -> impl Strategy<Value = Pool> {
    any::<[u8; 15]>().prop_map(|bytes| {
        let mut whole = [0; 16];
        whole[..15].copy_from_slice(&bytes);
        Pool::from_bytes(whole).unwrap()
    })
}

fn any_object() -> impl Strategy<Value = Object> {
    (any::<[u64; 2]>(), any::<u32>(), any::<u32>()).prop_map(|(id, generation, ost)| Object {
        id,
        generation,
        ost,
    })
}

/// Stripes that have their objects (`waiting` false), or not yet.
fn any_plain(of: Of, waiting: bool) -> impl Strategy<Value = Plain> {
    let patterns = prop_oneof![
        Just(0x1_u32),
        Just(0x201),
        Just(0x100),
        Just(0x8000_0001),
        Just(0x4000_0001),
        Just(0x5),
        Just(0x801),
        any::<u32>().prop_map(|bits| bits | 0x0010_0000),
    ];
    let forms = prop_oneof![
        Just(Form::V1),
        any_pool().prop_map(Form::V3),
        any_pool().prop_map(Form::Specific),
    ];
    let objects = if waiting { vec(any_object(), 0..=0) } else { vec(any_object(), 1..=20) };
    (patterns, forms, any::<[u64; 2]>(), 1..=1024_u32, objects, any::<u16>(), any::<u16>())
        .prop_map(move |(pattern, form, owner, units, mut objects, start, stripes)| {
            let pattern = Pattern(pattern);
            if pattern.is_mdt() {
                objects.clear();
            }
            let given = u16::try_from(objects.len()).unwrap();
            let waits = waiting && !matches!(form, Form::Specific(_));
            let count = if waits && !pattern.is_mdt() { stripes } else { given };
            let start = match of {
                Of::File => Start::Generation(start),
                Of::Directory if start == 0xffff => Start::Any,
                Of::Directory => Start::Ost(start),
            };
            let stripe_size = units * 65_536;
            Plain { form, pattern, owner, stripe_size, count: Count(count), start, objects }
        })
}

fn any_foreign() -> impl Strategy<Value = Foreign> {
    (any::<u32>(), any::<u32>(), vec(any::<u8>(), 0..100))
        .prop_map(|(kind, flags, value)| Foreign { kind, flags, value })
}

fn any_component(of: Of) -> impl Strategy<Value = Component> {
    // INIT decides about objects, EXTENSION about the unit; all other bits are free.
    let marks = prop_oneof![4 => Just(0x10_u32), 4 => Just(0), 1 => Just(0x40)];
    let flags = (any::<u32>(), marks).prop_map(|(bits, marks)| (bits & !0x50 & !0x80) | marks);
    let body = flags.prop_flat_map(move |flags| {
        let striped = any_plain(of, flags & 0x10 == 0).prop_map(Body::Striped);
        (Just(flags), prop_oneof![9 => striped, 1 => any_foreign().prop_map(Body::Foreign)])
    });
    let numbers = (any::<[u32; 2]>(), 0..1_u64 << 48, any::<u16>(), any::<[u8; 4]>());
    (body, numbers).prop_map(|((flags, body), (words, timestamp, mirror_link, octets))| Component {
        id: words[0],
        flags: Flags(flags),
        extent: Extent::WHOLE,
        generation: words[1],
        timestamp,
        mirror_link,
        data_stripes: octets[0],
        parity_stripes: octets[1],
        compression: [octets[2], octets[3]],
        body,
    })
}

fn any_composite(of: Of) -> impl Strategy<Value = Composite> {
    let mirror = vec((any_component(of), 1..1000_u64), 1..5);
    let numbers = (any::<u32>(), any::<u16>(), any::<u8>(), any::<[u8; 13]>());
    (vec(mirror, 1..4), numbers).prop_map(|(mirrors, (generation, flags, ec_count, padding))| {
        let further_mirrors = u16::try_from(mirrors.len() - 1).unwrap();
        let mut components = Vec::new();
        for mirror in mirrors {
            let (last, mut start) = (mirror.len() - 1, 0);
            for (number, (component, units)) in mirror.into_iter().enumerate() {
                let end = if number == last { Extent::EOF } else { start + units * 65_536 };
                components.push(Component { extent: Extent { start, end }, ..component });
                start = end;
            }
        }
        Composite { generation, flags, further_mirrors, ec_count, padding, components }
    })
}

fn any_layout() -> impl Strategy<Value = (Layout, Of)> {
    prop_oneof![Just(Of::File), Just(Of::Directory)].prop_flat_map(|of| {
        let layout = prop_oneof![
            any_plain(of, false).prop_map(Layout::Plain),
            any_composite(of).prop_map(Layout::Composite),
            any_foreign().prop_map(Layout::Foreign),
        ];
        (layout, Just(of))
    })
}

proptest! {
    #[test]
    fn what_is_composed_is_parsed_back((layout, of) in any_layout()) {
        let value = layout.compose();
        prop_assert_eq!(Layout::parse(&value, of), Ok(layout.clone()));
        let request = layout.request();
        let parsed = Layout::parse(&request, Of::Directory).unwrap();
        prop_assert_eq!(parsed.request(), request, "a request asks for itself");
    }

    #[test]
    fn examples_with_wrong_bytes_are_errors_or_layouts_that_come_back(
        which in 0..fixtures::ALL.len(),
        wrong in vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in any::<prop::sample::Index>(),
        shorten in any::<bool>(),
    ) {
        let mut value = bytes(fixtures::ALL[which].1);
        for (place, byte) in wrong {
            let place = place.index(value.len());
            value[place] = byte;
        }
        if shorten {
            value.truncate(cut.index(value.len()));
        }
        for of in [Of::File, Of::Directory] {
            if let Ok(layout) = Layout::parse(&value, of) {
                prop_assert_eq!(Layout::parse(&layout.compose(), of), Ok(layout.clone()));
                let request = Layout::parse(&layout.request(), Of::Directory);
                prop_assert!(request.is_ok(), "{:?}: {:?}", layout, request);
            }
        }
    }

    #[test]
    fn any_bytes_are_an_error_or_a_layout(value in vec(any::<u8>(), 0..400)) {
        let _ = Layout::parse(&value, Of::File);
        let _ = Layout::parse(&value, Of::Directory);
    }
}
