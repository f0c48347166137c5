//! A word of an enumeration that another program may have extended. It gives no meaning to words that
//! it does not know; it only keeps them.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize};

/// One of the known words, or another one, kept as it was read. Without this a single object of a
/// newer program would make the whole list that it is in unreadable.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Open<E> {
    /// A word that this program knows.
    Known(E),
    /// Any other word.
    Unknown(String),
}

impl<E> Open<E> {
    /// The known word, if it is one.
    pub fn known(&self) -> Option<&E> {
        match self {
            Self::Known(word) => Some(word),
            Self::Unknown(_) => None,
        }
    }
}

impl<E: PartialEq> PartialEq<E> for Open<E> {
    fn eq(&self, other: &E) -> bool {
        self.known() == Some(other)
    }
}

impl<E> From<E> for Open<E> {
    fn from(word: E) -> Self {
        Self::Known(word)
    }
}

/// An empty word, as Go has it for a field that was not given.
impl<E> Default for Open<E> {
    fn default() -> Self {
        Self::Unknown(String::new())
    }
}

impl<E: Serialize> fmt::Display for Open<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}

/// To the API server only the known words are valid: what is read liberally is not written so.
impl<E: JsonSchema> JsonSchema for Open<E> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        E::schema_name()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        E::json_schema(generator)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
    enum Colour {
        Red,
        Green,
    }

    #[test]
    fn an_unknown_word_is_kept_and_written_back() {
        let read: Vec<Open<Colour>> = serde_json::from_str(r#"["Red","Mauve","Green"]"#).unwrap();
        assert_eq!(read[0], Colour::Red);
        assert_eq!(read[1], Open::Unknown("Mauve".to_owned()));
        assert_ne!(read[1], Colour::Green);
        assert_eq!(serde_json::to_string(&read).unwrap(), r#"["Red","Mauve","Green"]"#);
        assert_eq!(format!("{} {}", read[1], read[2]), "Mauve Green");
    }

    #[test]
    fn what_is_no_word_is_refused() {
        serde_json::from_str::<Open<Colour>>("7").unwrap_err();
    }
}
