//! Layouts as JSON, with the words of `lfs getstripe --yaml` where it has some. docs/lustre.md
//! describes it; keys are only ever added.

use serde::{Serialize, Serializer};

use super::fields::{Extent, Pool, Start, Stripes};
use super::layout::{Body, Component, Composite, Foreign, Layout, MirrorState, Object, Plain};

impl Serialize for Layout {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Plain(plain) => View::Plain(PlainView::of(plain)).serialize(serializer),
            Self::Composite(composite) => {
                View::Composite(CompositeView::of(composite)).serialize(serializer)
            }
            Self::Foreign(foreign) => View::Foreign(ForeignView::of(foreign)).serialize(serializer),
        }
    }
}

#[derive(Serialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
enum View {
    Plain(PlainView),
    Composite(CompositeView),
    Foreign(ForeignView),
}

#[derive(Serialize)]
struct PlainView {
    pattern: String,
    pattern_bits: u32,
    released: bool,
    stripe_count: i32,
    stripe_size: u32,
    stripe_offset: i32,
    pool: Option<String>,
    objects: Vec<ObjectView>,
}

#[derive(Serialize)]
struct ObjectView {
    ost: u32,
    id: String,
}

#[derive(Serialize)]
struct CompositeView {
    generation: u32,
    mirror_count: u32,
    state: &'static str,
    components: Vec<ComponentView>,
}

#[derive(Serialize)]
struct ComponentView {
    id: u32,
    mirror: u16,
    flags: Vec<String>,
    start: u64,
    /// `null` is the end of the file.
    end: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    extension_size: Option<u64>,
    #[serde(flatten)]
    body: View,
}

#[derive(Serialize)]
struct ForeignView {
    r#type: u32,
    flags: u32,
    value_bytes: usize,
}

impl PlainView {
    fn of(plain: &Plain) -> Self {
        Self {
            pattern: plain.pattern.to_string(),
            pattern_bits: plain.pattern.0,
            released: plain.pattern.is_released(),
            stripe_count: match plain.count.stripes() {
                Stripes::Default => 0,
                Stripes::Number(number) => number.into(),
                Stripes::EveryOst(times) => -i32::from(times),
            },
            stripe_size: plain.stripe_size,
            // What was read from a file in its place is a generation; the first object is the truth.
            stripe_offset: match (plain.start, plain.objects.first()) {
                (Start::Ost(ost), _) => ost.into(),
                (_, Some(first)) => i32::try_from(first.ost).unwrap_or(-1),
                (_, None) => -1,
            },
            pool: plain.pool().as_ref().map(Pool::to_string),
            objects: plain.objects.iter().map(ObjectView::of).collect(),
        }
    }
}

impl ObjectView {
    fn of(object: &Object) -> Self {
        Self { ost: object.ost, id: object.id_text() }
    }
}

impl Object {
    /// Its identity as Lustre writes it: a FID (`[0x280000401:0x10:0x0]`), or the number of an object
    /// of the old kind (`0x1a2b`). Of `struct ost_id` (`lustre_ostid.h`).
    #[must_use]
    pub fn id_text(&self) -> String {
        match self.id {
            [number, 0] => format!("{number:#x}"),
            [sequence, rest] => {
                format!("[{sequence:#x}:{:#x}:{:#x}]", rest & 0xffff_ffff, rest >> 32)
            }
        }
    }
}

impl CompositeView {
    fn of(composite: &Composite) -> Self {
        Self {
            generation: composite.generation,
            mirror_count: u32::from(composite.further_mirrors) + 1,
            state: match composite.state() {
                MirrorState::None => "none",
                MirrorState::InSync => "in-sync",
                MirrorState::WritePending => "write-pending",
                MirrorState::SyncPending => "sync-pending",
            },
            components: composite.components.iter().map(ComponentView::of).collect(),
        }
    }
}

impl ComponentView {
    fn of(component: &Component) -> Self {
        let flags = component.flags.to_string();
        Self {
            id: component.id,
            mirror: component.mirror(),
            flags: flags.split(',').filter(|word| !word.is_empty()).map(str::to_owned).collect(),
            start: component.extent.start,
            end: Some(component.extent.end).filter(|end| *end != Extent::EOF),
            extension_size: component.extension_bytes(),
            body: match &component.body {
                Body::Striped(plain) => View::Plain(PlainView::of(plain)),
                Body::Foreign(foreign) => View::Foreign(ForeignView::of(foreign)),
            },
        }
    }
}

impl ForeignView {
    fn of(foreign: &Foreign) -> Self {
        Self { r#type: foreign.kind, flags: foreign.flags, value_bytes: foreign.value.len() }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::lustre::fixtures::{self, bytes};
    use crate::lustre::layout::{Layout, Of};

    fn value(hex: &str) -> serde_json::Value {
        serde_json::to_value(Layout::parse(&bytes(hex), Of::File).unwrap()).unwrap()
    }

    #[test]
    fn a_plain_layout_names_its_objects() {
        let expected = json!({
            "kind": "plain", "pattern": "raid0", "pattern_bits": 1, "released": false,
            "stripe_count": 1, "stripe_size": 1_048_576, "stripe_offset": 3, "pool": null,
            "objects": [{"ost": 3, "id": "0x1a2b"}],
        });
        assert_eq!(value(fixtures::V1), expected);
        assert_eq!(value(fixtures::V3_POOL)["objects"][1]["id"], "[0x2c0000401:0x11:0x0]");
    }

    #[test]
    fn the_end_of_the_file_is_null() {
        let found = value(fixtures::PROGRESSIVE);
        assert_eq!(found["kind"], "composite");
        assert_eq!(found["components"][1]["end"], 64 << 20);
        assert_eq!(found["components"][1]["flags"], json!(["init"]));
        assert_eq!(found["components"][2]["end"], json!(null));
        assert_eq!(found["components"][2]["stripe_offset"], -1);
        assert_eq!(value(fixtures::MIRRORS)["state"], "write-pending");
    }
}
