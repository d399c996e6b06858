//! Access control lists as extended attributes (acl(5), linux/posix_acl_xattr.h): what a file system does when one
//! is set, for files that are never made.

use rustix::io::Errno;

/// All that there is of a list of nothing.
pub(super) const VERSION: [u8; 4] = 2_u32.to_le_bytes();
const USER_OBJ: u16 = 0x01;
const USER: u16 = 0x02;
const GROUP_OBJ: u16 = 0x04;
const GROUP: u16 = 0x08;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;

/// What a list means for the permission bits of its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Effect {
    /// The nine bits.
    pub(super) mode: u16,
    /// The bits say everything, and the list is not kept.
    pub(super) is_mode: bool,
}

/// Checks a list that is not empty; EINVAL for what no file system takes.
pub(super) fn check(value: &[u8]) -> Result<Effect, Errno> {
    let (version, entries) = value.split_first_chunk().ok_or(Errno::INVAL)?;
    if *version != VERSION {
        return Err(Errno::OPNOTSUPP);
    }
    if entries.is_empty() || !entries.len().is_multiple_of(8) {
        return Err(Errno::INVAL);
    }
    // Owner, named users, group, named groups, mask, others, in this order.
    let (mut last, mut named, mut mask) = (0, false, false);
    let mut effect = Effect { mode: 0, is_mode: true };
    let mut group = 0;
    for entry in entries.chunks_exact(8) {
        let number = |at: usize| u16::from_le_bytes([entry[at], entry[at + 1]]);
        let (tag, bits) = (number(0), number(2));
        let several = matches!(tag, USER | GROUP);
        if bits > 7 || tag < last || (tag == last && !several) || entry[4..] == [0xff; 4] && several {
            return Err(Errno::INVAL);
        }
        match tag {
            USER_OBJ => effect.mode |= bits << 6,
            GROUP_OBJ => group = bits,
            OTHER => effect.mode |= bits,
            USER | GROUP => named = true,
            MASK => {
                mask = true;
                effect.mode |= bits << 3;
            }
            _ => return Err(Errno::INVAL),
        }
        let before = match tag {
            USER_OBJ => 0,
            USER | GROUP_OBJ => USER_OBJ,
            _ => GROUP_OBJ,
        };
        if last < before {
            return Err(Errno::INVAL);
        }
        last = tag;
    }
    if last != OTHER || (named && !mask) {
        return Err(Errno::INVAL);
    }
    if !mask {
        effect.mode |= group << 3;
    }
    effect.is_mode = !named && !mask;
    Ok(effect)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(entries: &[(u16, u16, u32)]) -> Vec<u8> {
        let mut bytes = VERSION.to_vec();
        for (tag, bits, id) in entries {
            bytes.extend([tag.to_le_bytes(), bits.to_le_bytes()].concat());
            bytes.extend(id.to_le_bytes());
        }
        bytes
    }

    #[test]
    fn lists_are_taken_as_a_file_system_takes_them() {
        const NONE: u32 = u32::MAX;
        let good = |entries, mode, is_mode| assert_eq!(check(&list(entries)), Ok(Effect { mode, is_mode }));
        good(&[(1, 6, NONE), (4, 4, NONE), (0x20, 4, NONE)], 0o644, true);
        good(&[(1, 6, NONE), (2, 7, 1000), (4, 4, NONE), (0x10, 7, NONE), (0x20, 0, NONE)], 0o670, false);
        for bad in [
            list(&[]),
            list(&[(1, 6, NONE), (0x20, 4, NONE)]),
            list(&[(1, 6, NONE), (4, 4, NONE)]),
            list(&[(1, 6, NONE), (2, 7, 1000), (4, 4, NONE), (0x20, 0, NONE)]),
            list(&[(1, 8, NONE), (4, 4, NONE), (0x20, 4, NONE)]),
            list(&[(4, 4, NONE), (1, 6, NONE), (0x20, 4, NONE)]),
            list(&[(1, 6, NONE), (1, 6, NONE), (4, 4, NONE), (0x20, 4, NONE)]),
            b"x".to_vec(),
            [list(&[(1, 6, NONE), (4, 4, NONE), (0x20, 4, NONE)]), vec![0]].concat(),
        ] {
            assert_eq!(check(&bad), Err(Errno::INVAL), "{bad:?}");
        }
    }
}
