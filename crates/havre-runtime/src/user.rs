//! Which ids a process gets, from Docker's USER text and the container's own files.
//!
//! Invariants: a text of digits is an id or an error and never looked up as a name; ids are at most
//! 2^31 - 1, as in Docker; the files are read only if they are regular and at most 1 MiB, so that an
//! image can neither make us wait nor fill our memory. Nothing ever falls back to root.

use std::io::{self, Read};
use std::path::Path;

use rustix::fs::OFlags;

use crate::error::{RuntimeError, Step};
use crate::path::Root;

const MAX_FILE: u64 = 1 << 20;
const MAX_ID: u32 = i32::MAX.cast_unsigned();

/// What a process runs as.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) groups: Vec<u32>,
    /// Home folder, if the container's files know the user.
    pub(crate) home: Option<String>,
}

/// Resolves `user` (`""`, `1000`, `bob`, `bob:wheel`, `1000:50`) and further groups inside the root.
pub(crate) fn resolve(root: &Root<'_>, user: &str, additional: &[String]) -> Result<Identity, RuntimeError> {
    let passwd = read(root, "/etc/passwd")?;
    let group = read(root, "/etc/group")?;
    find(&passwd, &group, user, additional)
}

/// The home folder of a user whose number is known.
pub(crate) fn home(root: &Root<'_>, uid: u32) -> Option<String> {
    let passwd = read(root, "/etc/passwd").ok()?;
    accounts(&passwd).find(|account| account.uid == uid).map(|account| account.home.to_owned())
}

fn read(root: &Root<'_>, path: &str) -> Result<String, RuntimeError> {
    // Without waiting: opening a FIFO would wait for somebody to write.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = match root.open(Path::new(path), flags) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(String::new()),
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::NOTDIR.raw_os_error()) => {
            return Ok(String::new());
        }
        other => std::fs::File::from(other.step_with(|| format!("open {path} of the container"))?),
    };
    let metadata = file.metadata().step_with(|| format!("read {path} of the container"))?;
    if !metadata.is_file() {
        return Err(RuntimeError::User(format!("{path} of the container is not a regular file")));
    }
    let mut bytes = Vec::new();
    file.take(MAX_FILE + 1).read_to_end(&mut bytes).step_with(|| format!("read {path} of the container"))?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(RuntimeError::User(format!("{path} of the container is larger than 1 MiB")));
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

struct Account<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

fn accounts(passwd: &str) -> impl Iterator<Item = Account<'_>> {
    passwd.lines().filter_map(|line| {
        let mut fields = line.trim().split(':');
        let (name, _password) = (fields.next()?, fields.next()?);
        let (uid, gid) = (number(fields.next()?)?.ok()?, number(fields.next()?)?.ok()?);
        let home = fields.nth(1).unwrap_or("");
        (!name.is_empty()).then_some(Account { name, uid, gid, home })
    })
}

struct Group<'a> {
    name: &'a str,
    gid: u32,
    members: &'a str,
}

fn groups(group: &str) -> impl Iterator<Item = Group<'_>> {
    group.lines().filter_map(|line| {
        let mut fields = line.trim().split(':');
        let (name, _password) = (fields.next()?, fields.next()?);
        let gid = number(fields.next()?)?.ok()?;
        (!name.is_empty()).then_some(Group { name, gid, members: fields.next().unwrap_or("") })
    })
}

/// `None`: not a number at all. `Some(Err)`: a number that is no id.
fn number(text: &str) -> Option<Result<u32, RuntimeError>> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let id = text.parse::<u32>().ok().filter(|id| *id <= MAX_ID);
    Some(id.ok_or_else(|| RuntimeError::User(format!("uids and gids must be in range 0-{MAX_ID}: {text}"))))
}

fn find(passwd: &str, group: &str, user: &str, additional: &[String]) -> Result<Identity, RuntimeError> {
    let (user_text, group_text) = match user.split_once(':') {
        Some((user, group)) => (user, Some(group).filter(|group| !group.is_empty())),
        None => (user, None),
    };
    let account = match number(user_text) {
        None if user_text.is_empty() => accounts(passwd).find(|account| account.uid == 0),
        Some(id) => {
            let id = id?;
            accounts(passwd).find(|account| account.uid == id)
        }
        None => Some(accounts(passwd).find(|account| account.name == user_text).ok_or_else(|| {
            RuntimeError::User(format!("unable to find user {user_text}: no matching entries in passwd file"))
        })?),
    };
    let mut identity = Identity {
        uid: match number(user_text) {
            Some(id) => id?,
            None => account.as_ref().map_or(0, |account| account.uid),
        },
        gid: account.as_ref().map_or(0, |account| account.gid),
        groups: Vec::new(),
        home: account.as_ref().map(|account| account.home.to_owned()),
    };
    match (group_text, &account) {
        (Some(text), _) => identity.gid = group_id(group, text)?,
        (None, Some(account)) => {
            let member = |entry: &Group<'_>| entry.members.split(',').any(|name| name.trim() == account.name);
            identity.groups.extend(groups(group).filter(member).map(|entry| entry.gid));
        }
        (None, None) => {}
    }
    for text in additional {
        identity.groups.push(group_id(group, text)?);
    }
    let mut seen = std::collections::BTreeSet::new();
    identity.groups.retain(|gid| seen.insert(*gid));
    // The first group is also among the others, or a file could deny it by its group (CVE-2022-36109).
    if !identity.groups.contains(&identity.gid) {
        identity.groups.insert(0, identity.gid);
    }
    Ok(identity)
}

fn group_id(group: &str, text: &str) -> Result<u32, RuntimeError> {
    match number(text) {
        Some(id) => id,
        None => groups(group).find(|entry| entry.name == text).map(|entry| entry.gid).ok_or_else(|| {
            RuntimeError::User(format!("unable to find group {text}: no matching entries in group file"))
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nbob:x:1000:1001:Bob:/home/bob:/bin/sh\n\
        4294967296:x:0:0::/:/bin/sh\n1234:x:0:0::/:/bin/sh\nbad:x:4294967296:0::/:\nnegative:x:-1:0::/:\n";
    const GROUP: &str = "root:x:0:\nwheel:x:10:bob,root\naudio:x:29:bob\n77:x:0:\nbroken\n";

    fn ids(user: &str) -> Result<(u32, u32, Vec<u32>), String> {
        find(PASSWD, GROUP, user, &[])
            .map(|identity| (identity.uid, identity.gid, identity.groups))
            .map_err(|error| error.to_string())
    }

    #[test]
    fn users_and_groups_are_found_as_docker_finds_them() {
        assert_eq!(ids(""), Ok((0, 0, vec![0, 10])));
        assert_eq!(ids("bob"), Ok((1000, 1001, vec![1001, 10, 29])));
        assert_eq!(ids("bob:"), Ok((1000, 1001, vec![1001, 10, 29])));
        assert_eq!(ids("bob:audio"), Ok((1000, 29, vec![29])));
        assert_eq!(ids("1000"), Ok((1000, 1001, vec![1001, 10, 29])));
        assert_eq!(ids("4000"), Ok((4000, 0, vec![0])));
        assert_eq!(ids("4000:50"), Ok((4000, 50, vec![50])));
        assert_eq!(ids(":wheel"), Ok((0, 10, vec![10])));
        assert_eq!(ids("2147483647"), Ok((2_147_483_647, 0, vec![0])));
        assert_eq!(
            find("", "", "7", &[]).unwrap(),
            Identity { uid: 7, groups: vec![0], ..Identity::default() }
        );
        let more = ["audio".to_owned(), "50".to_owned(), "29".to_owned()];
        assert_eq!(find(PASSWD, GROUP, "", &more).unwrap().groups, [0, 10, 29, 50]);
    }

    #[test]
    fn r14_r15_absurd_users_are_errors_and_never_root() {
        for text in [
            "4294967296",
            "4294967296:0",
            "2147483648",
            "4294967295",
            "-1",
            "-0",
            "99999999999999999999999999",
            "0x0",
            "0 ",
            " 0",
            "+1",
            "1e3",
            "1.5",
            "nobody",
            "bad",
            "negative",
            "root\n",
            "root\0",
            "bob:nogroup",
            "bob:4294967296",
            "bob:-1",
            "bob:0x0",
            "bob:wheel:audio",
            "٣",
        ] {
            assert!(ids(text).is_err(), "{text:?} gave {:?}", ids(text));
        }
        // A name of digits in the image's file is not what the number means.
        assert_eq!(ids("1234"), Ok((1234, 0, vec![0])));
        assert_eq!(ids("bob:77"), Ok((1000, 77, vec![77])));
        assert_eq!(ids("foo"), Err("unable to find user foo: no matching entries in passwd file".into()));
        assert_eq!(ids("bob:bar"), Err("unable to find group bar: no matching entries in group file".into()));
    }

    #[test]
    fn r15_files_that_are_no_regular_files_or_too_large_are_refused() {
        use std::os::fd::AsFd;
        let folder = tempfile::tempdir().unwrap();
        let etc = folder.path().join("etc");
        std::fs::create_dir(&etc).unwrap();
        let fd = std::fs::File::open(folder.path()).unwrap();
        let root = Root::new(fd.as_fd());
        assert_eq!(resolve(&root, "", &[]).unwrap().uid, 0);

        rustix::fs::mknodat(
            rustix::fs::CWD,
            etc.join("passwd"),
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::from_raw_mode(0o644),
            0,
        )
        .unwrap();
        assert!(resolve(&root, "bob", &[]).is_err());
        std::fs::remove_file(etc.join("passwd")).unwrap();
        std::fs::write(etc.join("passwd"), "x".repeat(2 << 20)).unwrap();
        assert!(resolve(&root, "bob", &[]).is_err());
        std::fs::remove_file(etc.join("passwd")).unwrap();
        // A link out of the root finds nothing.
        std::os::unix::fs::symlink("/../../../../../../../../etc/passwd", etc.join("passwd")).unwrap();
        assert!(resolve(&root, "root", &[]).is_err());
    }
}
