//! How answers become text: units, tables, templates, indented JSON.

pub(crate) mod json;
pub(crate) mod table;
pub(crate) mod template;
pub(crate) mod units;
