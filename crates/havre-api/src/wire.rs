//! What all wire types share: the derive list, tolerance of `null`, omission of empty values.

use serde::{Deserialize, Deserializer};

/// Reads `null` as the type's default.
pub(crate) fn nullable<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Option::<T>::deserialize(deserializer).map(Option::unwrap_or_default)
}

/// Reads one text or a list of texts, as Docker does for commands and capabilities.
pub(crate) fn words<'de, D>(deserializer: D) -> Result<Option<Vec<String>>, D::Error>
where
    D: Deserializer<'de>,
{
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Words {
        One(String),
        Many(Vec<String>),
    }
    let words = Option::<Words>::deserialize(deserializer)?;
    Ok(words.map(|words| match words {
        Words::One(word) => vec![word],
        Words::Many(list) => list,
    }))
}

/// Whether a value is what Docker's `omitempty` leaves out.
pub(crate) fn empty<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// Declares wire structs: public fields, `PascalCase`, every field optional and nullable on input.
/// `omit` before a field's name leaves it out of the output when empty; `words` reads it as text or list.
macro_rules! wire {
    ($( $(#[$meta:meta])* pub struct $name:ident { $($body:tt)* } )*) => {
        $( crate::wire::wire_struct!{ [$(#[$meta])*] $name {} $($body)* } )*
    };
}

/// One field at a time, so that a marker may stand before the field.
macro_rules! wire_struct {
    ([$($meta:tt)*] $name:ident { $($done:tt)* }) => {
        $($meta)*
        #[derive(Debug, Clone, Default, PartialEq, serde::Serialize, serde::Deserialize)]
        #[serde(default, rename_all = "PascalCase")]
        pub struct $name { $($done)* }
    };
    ([$($meta:tt)*] $name:ident { $($done:tt)* } $(#[$fm:meta])* omit $field:ident : $ty:ty, $($rest:tt)*) => {
        crate::wire::wire_struct!{ [$($meta)*] $name { $($done)*
            $(#[$fm])*
            #[serde(deserialize_with = "crate::wire::nullable", skip_serializing_if = "crate::wire::empty")]
            pub $field: $ty,
        } $($rest)* }
    };
    ([$($meta:tt)*] $name:ident { $($done:tt)* } $(#[$fm:meta])* words $field:ident : $ty:ty, $($rest:tt)*) => {
        crate::wire::wire_struct!{ [$($meta)*] $name { $($done)*
            $(#[$fm])*
            #[serde(deserialize_with = "crate::wire::words")]
            pub $field: $ty,
        } $($rest)* }
    };
    ([$($meta:tt)*] $name:ident { $($done:tt)* } $(#[$fm:meta])* $field:ident : $ty:ty, $($rest:tt)*) => {
        crate::wire::wire_struct!{ [$($meta)*] $name { $($done)*
            $(#[$fm])*
            #[serde(deserialize_with = "crate::wire::nullable")]
            pub $field: $ty,
        } $($rest)* }
    };
}

pub(crate) use {wire, wire_struct};
