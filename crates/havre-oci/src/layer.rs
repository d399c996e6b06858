//! Conventions of layers: chain ids and whiteouts.

use crate::{Digest, Digester};

/// A file of this prefix hides the name after it in the layers below.
pub const WHITEOUT: &[u8] = b".wh.";
/// This file hides everything the layers below have in its folder.
pub const OPAQUE: &[u8] = b".wh..wh..opq";
/// Other names of this prefix are bookkeeping of an old file system and are left out.
pub const WHITEOUT_META: &[u8] = b".wh..wh.";

/// The id of a stack of layers, from the bottom one up: equal stacks have equal ids.
#[must_use]
pub fn chain_id(diff_ids: &[Digest]) -> Option<Digest> {
    let (first, rest) = diff_ids.split_first()?;
    Some(rest.iter().fold(first.clone(), |parent, diff| child_chain_id(Some(&parent), diff)))
}

/// The id of the stack that has `diff_id` on top of `parent`.
#[must_use]
pub fn child_chain_id(parent: Option<&Digest>, diff_id: &Digest) -> Digest {
    let Some(parent) = parent else { return diff_id.clone() };
    let mut digester = Digester::new();
    digester.update(format!("{parent} {diff_id}").as_bytes());
    digester.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_layer_is_its_own_chain_and_more_hash_their_names() {
        let (a, b) = (Digest::of_bytes(b"a"), Digest::of_bytes(b"b"));
        assert_eq!(chain_id(&[]), None);
        assert_eq!(chain_id(std::slice::from_ref(&a)), Some(a.clone()));
        let expected = Digest::of_bytes(format!("{a} {b}").as_bytes());
        assert_eq!(chain_id(&[a, b]), Some(expected));
    }
}
