//! Any bytes as a value of `lustre.lov`, as words of `lfs setstripe`, and as a site's table: an error,
//! or something that comes back the same. Crashes, hangs and lost fields are what the fuzzer looks for.
#![no_main]

use libfuzzer_sys::fuzz_target;
use longshore::lustre::choose::{Policy, choose};
use longshore::lustre::layout::{Layout, Of};
use longshore::lustre::site::Site;
use longshore::lustre::stripes::Striping;
use longshore::lustre::table::Table;

fuzz_target!(|bytes: &[u8]| {
    for of in [Of::File, Of::Directory] {
        if let Ok(layout) = Layout::parse(bytes, of) {
            value(&layout, of);
        }
    }
    if let Ok(text) = std::str::from_utf8(bytes) {
        if let Ok(layout) = Layout::from_spec(text) {
            words(&layout);
        }
        let _ = Table::parse(text);
    }
});

fn value(layout: &Layout, of: Of) {
    let again = Layout::parse(&layout.compose(), of);
    // Layouts are long: one that fails is for a debugger, not for the log.
    assert!(again.as_ref() == Ok(layout), "every field comes back");
    let request = layout.request();
    let parsed = Layout::parse(&request, Of::Directory).expect("a request is a valid value");
    assert!(parsed.request() == request, "a request asks for itself");
    let _ = (layout.to_string(), layout.to_spec());
    for size in [0, 1, 65_536, 10 << 20, (3 << 30) + 5] {
        if let Some(striping) = Striping::of(layout, size) {
            partition(&striping, size);
        }
        for osts in [None, Some(3)] {
            let site = Site { osts, default: parsed_default(layout), ..Site::default() };
            let chosen = choose(&Policy::Preserve, Some(layout), size, &site, None);
            if let Some(wanted) = chosen.request {
                let value = wanted.compose();
                assert!(wanted.request() == value, "what is chosen is clean");
                assert!(Layout::parse(&value, Of::Directory).is_ok(), "and valid");
            }
        }
    }
}

/// A default with data on the MDT where the layout has some, so that both ways are taken.
fn parsed_default(layout: &Layout) -> Option<Layout> {
    layout.plains().any(|plain| plain.pattern.is_mdt()).then(|| layout.clone())
}

/// The runs of a file follow each other without gap, and each is where its object says it is. Only the
/// first ones are looked at: a stripe may be small and a file long.
fn partition(striping: &Striping, size: u64) {
    let mut offset = 0;
    for _ in 0..200 {
        let Some(run) = striping.run_at(offset) else {
            assert_eq!(offset, striping.end(), "runs reach the last component's end");
            return;
        };
        assert!(run.range.contains(&offset), "the run has the byte that it was asked for");
        assert!(offset == 0 || run.range.start == offset, "runs touch each other");
        assert!(run.object < striping.servers().len(), "the object exists");
        let same = striping.run_of(run.object, run.range.start).expect("the object has the run");
        assert_eq!(same, run, "asked for by object or by offset, it is the same run");
        if run.range.end >= size {
            return;
        }
        offset = run.range.end;
    }
}

/// What words ask for can be said again, and set.
fn words(layout: &Layout) {
    let words = layout.to_spec();
    assert!(Layout::from_spec(&words).as_ref() == Ok(layout), "words come back: {words}");
    let parsed = Layout::parse(&layout.request(), Of::Directory);
    assert!(parsed.as_ref() == Ok(layout), "words are a valid request: {words}");
}
