//! The files of a layer, in memory: what its headers say, with the content left where it is.
//!
//! Invariants: names are looked up as the kernel would inside the layer (`openat2` with `RESOLVE_IN_ROOT`): links of
//! the layer are followed and never lead out of it. What an entry does to what is there already is what extraction
//! does (`Unpacker`, `Layer`). Errors are those of the system calls that are not made. Memory is bounded.

use std::collections::BTreeMap;

use havre_archive::ArchiveError;
use havre_archive::tar::{Entry, Kind};
use havre_archive::unpack::{self, Rules, attribute_is_allowed, failed, refuse, split};
use rustix::io::Errno;

use super::acl;

/// A node of the tree, by its place in it.
pub(super) type Id = u32;
/// Its root.
pub(super) const ROOT: Id = 0;

/// Links followed on the way to one name (path_resolution(7)).
const LINKS: u32 = 40;
/// Bytes of a name, and of a path.
const NAME: usize = 255;
const PATH: usize = 4095;
/// What EROFS can store of an attribute.
const VALUE: usize = 65_535;
/// Of all attributes of a file together: what it can store, less than what it counts with.
const ATTRIBUTES: usize = 200 << 10;
const SET_GROUP: u16 = 0o2000;
/// About what a node costs besides its names and attributes.
const NODE: usize = 160;

/// Name and value.
pub(super) type Attribute = (Box<[u8]>, Box<[u8]>);

/// A piece of a sparse file: bytes of the layer's file that belong to a place in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) from: u64,
    pub(super) to: u64,
    pub(super) length: u64,
}

/// The content of a file.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Content {
    /// All of it is at this place of the layer's file.
    Plain { at: u64, length: u64 },
    /// The rest are holes.
    Sparse { pieces: Vec<Piece>, length: u64 },
}

/// What a node is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum What {
    File { at: u64, length: u64 },
    Sparse(Box<(Vec<Piece>, u64)>),
    Folder(Box<Folder>),
    Symlink(Box<[u8]>),
    Character(u32),
    Block(u32),
    Fifo,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Folder {
    pub(super) parent: Id,
    pub(super) names: BTreeMap<Box<[u8]>, Id>,
}

#[derive(Debug)]
pub(super) struct Node {
    pub(super) what: What,
    pub(super) mode: u16,
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Names it has.
    pub(super) links: u32,
    pub(super) mtime: (i64, u32),
    /// By whole name; few.
    pub(super) xattrs: Vec<Attribute>,
}

impl Node {
    pub(super) const fn folder(&self) -> Option<&Folder> {
        match &self.what {
            What::Folder(folder) => Some(folder),
            _ => None,
        }
    }

    const fn is_whiteout(&self) -> bool {
        matches!(self.what, What::Character(0))
    }

    fn set(&mut self, name: &[u8], value: &[u8]) {
        match self.xattrs.iter_mut().find(|(known, _)| **known == *name) {
            Some((_, old)) => *old = value.into(),
            None => self.xattrs.push((name.into(), value.into())),
        }
    }
}

type Result<T, E = Errno> = std::result::Result<T, E>;

pub(super) struct Tree {
    pub(super) nodes: Vec<Node>,
    rules: Rules,
    /// The time of what the archive does not give one.
    now: i64,
    /// The folder of the previous entry: archives list folders one after the other.
    parent: Option<(Vec<u8>, Id)>,
    /// Bytes of all files.
    size: u64,
    /// About how much memory is taken, and how much may be.
    weight: usize,
    most: usize,
}

impl Tree {
    /// An empty one that may take `most` bytes of memory. What the archive gives no time has that of `now`.
    pub(super) fn new(rules: Rules, now: u64, most: usize) -> Self {
        let now = i64::try_from(now).unwrap_or(0);
        let mut tree = Self { nodes: Vec::new(), rules, now, parent: None, size: 0, weight: 0, most };
        let names = BTreeMap::new();
        tree.nodes.push(tree.node(What::Folder(Box::new(Folder { parent: ROOT, names })), 0o755));
        tree
    }

    pub(super) const fn size(&self) -> u64 {
        self.size
    }

    pub(super) fn clean(&self, path: &[u8]) -> Result<Vec<u8>, ArchiveError> {
        self.rules.clean(path, b"")
    }

    /// Adds what an entry describes; `path` is its cleaned name.
    pub(super) fn entry(&mut self, entry: &Entry, path: &[u8], content: Content) -> Result<(), ArchiveError> {
        if path.is_empty() {
            if entry.kind == Kind::Directory && self.rules.root {
                let (uid, gid) = {
                    // As extraction, which takes what is too large for nobody's.
                    let id = |value: u64| u32::try_from(value).unwrap_or(0);
                    (id(entry.uid), id(entry.gid))
                };
                self.describe(ROOT, entry, uid, gid).map_err(|e| failed(entry)(e.into()))?;
            }
            return Ok(());
        }
        if entry.kind == Kind::Other {
            return Ok(());
        }
        let (uid, gid) = unpack::owner(entry)?;
        let errno = |e: Errno| failed(entry)(e.into());
        let (above, name) = split(path);
        let parent = self.parent(above).map_err(errno)?;
        let id = match entry.kind {
            Kind::Directory => self.directory(parent, name).map_err(errno)?,
            Kind::HardLink => return self.hard_link(entry, path, parent, name),
            kind => {
                let what = match (kind, content) {
                    (Kind::Symlink, _) => {
                        let target = unpack::link_target(entry)?;
                        if target.len() > PATH {
                            return Err(errno(Errno::NAMETOOLONG));
                        }
                        What::Symlink(target.into())
                    }
                    (Kind::Character, _) => What::Character(device(entry)),
                    (Kind::Block, _) => What::Block(device(entry)),
                    (Kind::Fifo, _) => What::Fifo,
                    (_, Content::Plain { at, length }) => {
                        self.size = self.size.saturating_add(length);
                        What::File { at, length }
                    }
                    (_, Content::Sparse { pieces, length }) => {
                        self.size = self.size.saturating_add(length);
                        self.weight += pieces.len() * size_of::<Piece>();
                        What::Sparse(Box::new((pieces, length)))
                    }
                };
                self.put(parent, name, what).map_err(errno)?
            }
        };
        self.describe(id, entry, uid, gid).map_err(errno)
    }

    /// Says that a folder hides those of the layers below.
    pub(super) fn opaque(&mut self, path: &[u8]) -> Result<()> {
        let folder = self.parent(path)?;
        self.set_opaque(folder);
        Ok(())
    }

    fn set_opaque(&mut self, id: Id) {
        self.at_mut(id).set(b"trusted.overlay.opaque", b"y");
    }

    /// Says that a name is gone.
    pub(super) fn whiteout(&mut self, folder: &[u8], name: &[u8]) -> Result<()> {
        let parent = self.parent(folder)?;
        match self.child(parent, name)? {
            None => drop(self.put(parent, name, What::Character(0))?),
            // The layer itself has the name too: it is then the new one, and hides what is below.
            Some(id) if self.at(id).folder().is_some() => self.set_opaque(id),
            Some(_) => {}
        }
        Ok(())
    }

    /// Refuses what takes too much memory.
    pub(super) fn check_weight(&self) -> Result<(), ArchiveError> {
        if self.weight > self.most {
            let limit = u64::try_from(self.most).unwrap_or(0);
            return Err(ArchiveError::Limit {
                what: "bytes of names and attributes with this driver",
                limit,
            });
        }
        Ok(())
    }

    fn directory(&mut self, parent: Id, name: &[u8]) -> Result<Id> {
        let old = self.child(parent, name)?;
        if let Some(old) = old.filter(|old| self.at(*old).folder().is_some()) {
            return Ok(old);
        }
        let was_whiteout = old.is_some_and(|old| self.at(old).is_whiteout());
        let made = self.put_folder(parent, name)?;
        if was_whiteout {
            self.set_opaque(made);
        }
        Ok(made)
    }

    fn hard_link(&mut self, entry: &Entry, path: &[u8], parent: Id, name: &[u8]) -> Result<(), ArchiveError> {
        let target = self.clean(&entry.link)?;
        if target.as_slice() == path {
            return Ok(());
        }
        let (above, last) = split(&target);
        if last.is_empty() {
            return Err(refuse(&entry.path, "link to the root"));
        }
        let mut link = || -> Result<()> {
            let above = self.walk(above)?;
            self.child(above, last)?.ok_or(Errno::NOENT)?;
            if self.child(parent, name)?.is_some() {
                self.remove(parent, name);
            }
            // It may have been what was in the way, or below it.
            let found = self.child(above, last)?.ok_or(Errno::NOENT)?;
            if self.at(found).folder().is_some() {
                return Err(Errno::PERM);
            }
            self.at_mut(found).links += 1;
            self.insert(parent, name, found);
            Ok(())
        };
        link().map_err(|e| failed(entry)(e.into()))
    }

    pub(super) fn at(&self, id: Id) -> &Node {
        &self.nodes[index(id)]
    }

    fn at_mut(&mut self, id: Id) -> &mut Node {
        &mut self.nodes[index(id)]
    }

    fn node(&self, what: What, mode: u16) -> Node {
        Node { what, mode, uid: 0, gid: 0, links: 1, mtime: (self.now, 0), xattrs: Vec::new() }
    }

    fn child(&self, parent: Id, name: &[u8]) -> Result<Option<Id>> {
        if name.len() > NAME {
            return Err(Errno::NAMETOOLONG);
        }
        let folder = self.at(parent).folder().ok_or(Errno::NOTDIR)?;
        Ok(folder.names.get(name).copied())
    }

    fn insert(&mut self, parent: Id, name: &[u8], id: Id) {
        self.weight += NODE + name.len();
        if let What::Folder(folder) = &mut self.at_mut(parent).what {
            folder.names.insert(name.into(), id);
        }
    }

    /// Makes something new in place of whatever is there.
    fn put(&mut self, parent: Id, name: &[u8], what: What) -> Result<Id> {
        if self.child(parent, name)?.is_some() {
            self.remove(parent, name);
        }
        let id = Id::try_from(self.nodes.len()).map_err(|_| Errno::NOMEM)?;
        let mode = if matches!(what, What::Symlink(_)) { 0o777 } else { 0 };
        let mut node = self.node(what, mode);
        let above = self.at(parent);
        if above.mode & SET_GROUP != 0 {
            node.gid = above.gid;
        }
        if let What::Symlink(target) = &node.what {
            self.weight += target.len();
        }
        self.nodes.push(node);
        self.insert(parent, name, id);
        Ok(id)
    }

    fn put_folder(&mut self, parent: Id, name: &[u8]) -> Result<Id> {
        let made =
            self.put(parent, name, What::Folder(Box::new(Folder { parent, names: BTreeMap::new() })))?;
        self.at_mut(made).mode = 0o755;
        Ok(made)
    }

    /// Removes a name and everything below it.
    fn remove(&mut self, parent: Id, name: &[u8]) {
        let What::Folder(folder) = &mut self.at_mut(parent).what else { return };
        let Some(id) = folder.names.remove(name) else { return };
        let mut gone = vec![id];
        while let Some(id) = gone.pop() {
            let node = self.at_mut(id);
            node.links -= 1;
            if let What::Folder(folder) = &mut node.what {
                gone.extend(std::mem::take(&mut folder.names).into_values());
            }
        }
    }

    /// The folder `path`; what is missing of it is made.
    fn parent(&mut self, path: &[u8]) -> Result<Id> {
        if let Some((known, id)) = &self.parent
            && known == path
        {
            return Ok(*id);
        }
        self.parent = None;
        let id = match self.walk(path) {
            Err(Errno::NOENT) => {
                for end in (1..path.len()).filter(|&at| path[at] == b'/').chain([path.len()]) {
                    let part = &path[..end];
                    if self.walk(part) == Err(Errno::NOENT) {
                        let (above, name) = split(part);
                        let above = self.walk(above)?;
                        // A link to nowhere.
                        if self.child(above, name)?.is_some() {
                            return Err(Errno::EXIST);
                        }
                        self.put_folder(above, name)?;
                    }
                }
                self.walk(path)?
            }
            other => other?,
        };
        self.parent = Some((path.to_vec(), id));
        Ok(id)
    }

    /// The folder `path`, through links of the layer.
    fn walk(&self, path: &[u8]) -> Result<Id> {
        if path.len() > PATH {
            return Err(Errno::NAMETOOLONG);
        }
        let mut now = ROOT;
        let mut links = 0;
        // What is left to be walked, the next part last: of the path, and of links' targets before it.
        let mut left = vec![path.split(is_slash as fn(&u8) -> bool)];
        while let Some(parts) = left.last_mut() {
            let Some(part) = parts.next() else {
                left.pop();
                continue;
            };
            let folder = self.at(now).folder().ok_or(Errno::NOTDIR)?;
            match part {
                b"" | b"." => {}
                b".." => now = folder.parent,
                name => {
                    let found = self.child(now, name)?.ok_or(Errno::NOENT)?;
                    match &self.at(found).what {
                        What::Folder(_) => now = found,
                        What::Symlink(target) => {
                            links += 1;
                            if links > LINKS {
                                return Err(Errno::LOOP);
                            }
                            if target.starts_with(b"/") {
                                now = ROOT;
                            }
                            left.push(target.split(is_slash));
                        }
                        _ => return Err(Errno::NOTDIR),
                    }
                }
            }
        }
        Ok(now)
    }

    /// Sets what an entry says of its node.
    fn describe(&mut self, id: Id, entry: &Entry, uid: u32, gid: u32) -> Result<()> {
        let mut weight = 0;
        let node = self.at_mut(id);
        (node.uid, node.gid, node.mtime) = (uid, gid, entry.mtime);
        if !matches!(node.what, What::Symlink(_)) {
            node.mode = u16::try_from(entry.mode & 0o7777).unwrap_or(0);
            for (name, value) in entry.xattrs.iter().filter(|(name, _)| attribute_is_allowed(name)) {
                weight += name.len() + value.len() + 48;
                match attribute(node, name, value) {
                    // A file system without such attributes is no reason to refuse an archive.
                    Err(Errno::OPNOTSUPP | Errno::PERM) => {}
                    other => other?,
                }
            }
            let all: usize = node.xattrs.iter().map(|(name, value)| name.len() + value.len() + 8).sum();
            if all > ATTRIBUTES {
                return Err(Errno::NOSPC);
            }
        }
        self.weight += weight;
        Ok(())
    }
}

fn is_slash(byte: &u8) -> bool {
    *byte == b'/'
}

pub(super) fn index(id: Id) -> usize {
    usize::try_from(id).unwrap_or(usize::MAX)
}

/// The number of a device, as the kernel stores it: what is larger than it can be is cut as mknod(2) cuts it.
fn device(entry: &Entry) -> u32 {
    let number = rustix::fs::makedev(entry.device.0, entry.device.1);
    u32::try_from(number & u64::from(u32::MAX)).unwrap_or(0)
}

/// Sets one attribute as setxattr(2) would.
fn attribute(node: &mut Node, name: &[u8], value: &[u8]) -> Result<()> {
    if name.len() > NAME {
        return Err(Errno::RANGE);
    }
    if name.contains(&0) {
        return Err(Errno::INVAL);
    }
    if value.len() > VALUE {
        return Err(Errno::TOOBIG);
    }
    let is_folder = node.folder().is_some();
    match name {
        b"user." => return Err(Errno::INVAL),
        b"security.capability" => {
            // Revisions 2 and 3 (linux/capability.h); the first is not taken any more.
            let revision = value.get(..4).map(|magic| magic[3]);
            match (revision, value.len()) {
                (Some(2), 20) | (Some(3), 24) => {}
                _ => return Err(Errno::INVAL),
            }
        }
        b"system.posix_acl_access" | b"system.posix_acl_default"
            if value.is_empty() || *value == acl::VERSION =>
        {
            node.xattrs.retain(|(known, _)| **known != *name);
            return Ok(());
        }
        b"system.posix_acl_access" => {
            let effect = acl::check(value)?;
            node.mode = node.mode & !0o777 | effect.mode;
            if effect.is_mode {
                node.xattrs.retain(|(known, _)| **known != *name);
                return Ok(());
            }
        }
        b"system.posix_acl_default" => {
            acl::check(value)?;
            if !is_folder {
                return Err(Errno::ACCESS);
            }
        }
        name if name.starts_with(b"system.") => return Err(Errno::OPNOTSUPP),
        _ => {
            if !is_folder && !matches!(node.what, What::File { .. } | What::Sparse(_)) {
                return Err(Errno::PERM);
            }
        }
    }
    node.set(name, value);
    Ok(())
}
