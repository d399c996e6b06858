//! One process as `/proc` tells of it (proc(5)), and what is needed to say it in words.

use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;

use havre_base::{Clock as _, SystemClock};
use havre_runtime::cgroup::machine_memory;
use havre_sys::clock::{Local, local};

/// Ticks of the kernel's clock a second, as user space sees them on every architecture we run on.
const TICKS: u64 = 100;

const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
const DAYS: [&str; 7] = ["Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"];

/// A process or thread.
#[derive(Debug, Clone, Default)]
pub(crate) struct Process {
    folder: PathBuf,
    pub(crate) pid: i32,
    pub(crate) tid: i32,
    name: String,
    pub(crate) state: char,
    pub(crate) ppid: i32,
    pub(crate) pgrp: i32,
    pub(crate) session: i32,
    tty: u32,
    pub(crate) tpgid: i32,
    flags: u64,
    pub(crate) minor_faults: u64,
    pub(crate) major_faults: u64,
    ticks: u64,
    pub(crate) priority: i64,
    pub(crate) nice: i64,
    pub(crate) threads: u64,
    start: u64,
    pub(crate) vsize: u64,
    pub(crate) rss_pages: u64,
    pub(crate) processor: i64,
    pub(crate) rt_priority: u64,
    policy: u64,
    locked: bool,
    /// Real, effective, saved, file system.
    pub(crate) uids: [u32; 4],
    pub(crate) gids: [u32; 4],
    /// What stands before the command in a forest.
    branch: String,
}

/// Reads a process, or all its threads; nothing when it is gone.
pub(crate) fn read(pid: i32, threads: bool) -> Vec<Process> {
    let folder = PathBuf::from(format!("/proc/{pid}"));
    if !threads {
        return one(folder, pid, pid).into_iter().collect();
    }
    let Ok(entries) = fs::read_dir(folder.join("task")) else { return Vec::new() };
    let mut tids: Vec<i32> =
        entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    tids.sort_unstable();
    tids.into_iter().filter_map(|tid| one(folder.join(format!("task/{tid}")), pid, tid)).collect()
}

/// A process that waits where no signal reaches it, in words: its number, its name, the place in the kernel.
pub(crate) fn uninterruptible(pid: rustix::process::Pid) -> Option<String> {
    let pid = pid.as_raw_nonzero().get();
    let thread = read(pid, true).into_iter().find(|thread| thread.state == 'D')?;
    let place = fs::read_to_string(thread.folder.join("wchan")).unwrap_or_default();
    let place = if matches!(place.trim(), "" | "0") { "the kernel" } else { place.trim() };
    Some(format!("{pid} ({} in {place})", plain(&thread.name)))
}

fn one(folder: PathBuf, pid: i32, tid: i32) -> Option<Process> {
    let stat = String::from_utf8_lossy(&fs::read(folder.join("stat")).ok()?).into_owned();
    let status = fs::read_to_string(folder.join("status")).unwrap_or_default();
    let mut process = parse(&stat)?;
    let ids = |name: &str| {
        let mut ids = [0; 4];
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        for (slot, word) in ids.iter_mut().zip(line.unwrap_or_default().split_whitespace()) {
            *slot = word.parse().unwrap_or(0);
        }
        ids
    };
    (process.uids, process.gids) = (ids("Uid:"), ids("Gid:"));
    let locked = status.lines().find_map(|line| line.strip_prefix("VmLck:"));
    process.locked = locked.is_some_and(|rest| !rest.trim().starts_with("0 "));
    (process.folder, process.pid, process.tid) = (folder, pid, tid);
    Some(process)
}

/// Reads `/proc/PID/stat`; the name in it may contain anything, so the last parenthesis counts.
fn parse(stat: &str) -> Option<Process> {
    let (head, tail) = stat.rsplit_once(')')?;
    let (_, name) = head.split_once('(')?;
    // Fields are numbered as in proc(5): the state is 3.
    let fields: Vec<&str> = tail.split_whitespace().collect();
    let field = |number: usize| fields.get(number - 3).copied().unwrap_or("0");
    let int = |number: usize| field(number).parse::<i64>().unwrap_or(0);
    let small = |number: usize| field(number).parse::<i32>().unwrap_or(0);
    let natural = |number: usize| field(number).parse::<u64>().unwrap_or(0);
    Some(Process {
        name: name.to_owned(),
        state: field(3).chars().next().unwrap_or('?'),
        ppid: small(4),
        pgrp: small(5),
        session: small(6),
        tty: field(7).parse().unwrap_or(0),
        tpgid: small(8),
        flags: natural(9),
        minor_faults: natural(10),
        major_faults: natural(12),
        ticks: natural(14) + natural(15),
        priority: int(18),
        nice: int(19),
        threads: natural(20),
        start: natural(22),
        vsize: natural(23),
        rss_pages: natural(24),
        processor: int(39),
        rt_priority: natural(40),
        policy: natural(41),
        ..Process::default()
    })
}

/// Puts children below their parents and marks them.
pub(crate) fn arrange(list: &mut Vec<Process>) {
    let known: Vec<i32> = list.iter().map(|process| process.pid).collect();
    let mut waiting = std::mem::take(list);
    waiting.sort_by_key(|process| std::cmp::Reverse((process.start, process.pid)));
    // A stack: the roots first, then below each what it started.
    let (mut stack, mut rest): (Vec<_>, Vec<_>) =
        waiting.into_iter().partition(|process| !known.contains(&process.ppid));
    for root in &mut stack {
        root.branch = "\\_ ".into();
    }
    while let Some(process) = stack.pop() {
        let (mut children, others): (Vec<_>, Vec<_>) =
            rest.into_iter().partition(|child: &Process| child.ppid == process.pid);
        rest = others;
        for child in &mut children {
            child.branch = format!("    {}", process.branch);
        }
        stack.append(&mut children);
        list.push(process);
    }
    list.append(&mut rest);
}

/// What the container wrote there must not break the table or a terminal.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

impl Process {
    pub(crate) fn name(&self) -> String {
        let end = if self.state == 'Z' { " <defunct>" } else { "" };
        format!("{}{end}", plain(&self.name))
    }

    pub(crate) fn command(&self) -> String {
        let line = fs::read(self.folder.join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line);
        let words = line.trim_end_matches('\0').replace('\0', " ");
        let text = match words.as_str() {
            "" if self.state == 'Z' => format!("[{}] <defunct>", plain(&self.name)),
            "" => format!("[{}]", plain(&self.name)),
            words => plain(words),
        };
        format!("{}{text}", self.branch)
    }

    pub(crate) fn program(&self) -> String {
        fs::read_link(self.folder.join("exe"))
            .map_or_else(|_| "-".into(), |path| plain(&path.to_string_lossy()))
    }

    pub(crate) fn terminal(&self) -> String {
        let (major, minor) = ((self.tty >> 8) & 0xfff, (self.tty & 0xff) | ((self.tty >> 12) & 0xfff00));
        match major {
            0 => "?".into(),
            4 if minor < 64 => format!("tty{minor}"),
            4 => format!("ttyS{}", minor - 64),
            5 if minor == 1 => "console".into(),
            136..=143 => format!("pts/{}", minor + (major - 136) * 256),
            _ => format!("{major}:{minor}"),
        }
    }

    pub(crate) fn long_state(&self) -> String {
        let mut text = self.state.to_string();
        let marks = [
            (self.nice < 0, '<'),
            (self.nice > 0, 'N'),
            (self.locked, 'L'),
            (self.session == self.pid, 's'),
            (self.threads > 1, 'l'),
            (self.tpgid > 0 && self.tpgid == self.pgrp, '+'),
        ];
        text.extend(marks.iter().filter(|(holds, _)| *holds).map(|(_, mark)| mark));
        text
    }

    /// Forked without executing, used the rights of the superuser: what `ps` shows of the flags.
    pub(crate) fn shown_flags(&self) -> String {
        ((self.flags >> 6) & 7).to_string()
    }

    pub(crate) fn class(&self) -> &'static str {
        ["TS", "FF", "RR", "B", "ISO", "IDL", "DLN"]
            .get(usize::try_from(self.policy).unwrap_or(usize::MAX))
            .copied()
            .unwrap_or("?")
    }

    fn file(&self, name: &str) -> String {
        plain(fs::read_to_string(self.folder.join(name)).unwrap_or_default().trim_matches(['\n', '\0']))
    }

    pub(crate) fn waits_in(&self) -> String {
        match self.file("wchan").as_str() {
            "" | "0" => "-".into(),
            name => name.to_owned(),
        }
    }

    pub(crate) fn cgroup(&self) -> String {
        let text = fs::read_to_string(self.folder.join("cgroup")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        if lines.is_empty() { "-".into() } else { plain(&lines.join(",")) }
    }

    pub(crate) fn label(&self) -> String {
        match self.file("attr/current").as_str() {
            "" => "-".into(),
            label => label.to_owned(),
        }
    }
}

/// What is the same for all processes.
pub(crate) struct Machine {
    users: HashMap<u32, String>,
    groups: HashMap<u32, String>,
    /// Seconds since the epoch.
    boot: i64,
    now: i64,
    page: u64,
    memory: u64,
}

impl Machine {
    pub(crate) fn read() -> Self {
        let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
        let boot = stat.lines().find_map(|line| line.strip_prefix("btime ")?.trim().parse().ok());
        Self {
            users: names("/etc/passwd"),
            groups: names("/etc/group"),
            boot: boot.unwrap_or(0),
            now: SystemClock.now().as_seconds(),
            page: u64::try_from(rustix::param::page_size()).unwrap_or(4096),
            memory: machine_memory(),
        }
    }

    pub(crate) fn user(&self, id: u32) -> String {
        self.users.get(&id).cloned().unwrap_or_else(|| id.to_string())
    }

    pub(crate) fn group(&self, id: u32) -> String {
        self.groups.get(&id).cloned().unwrap_or_else(|| id.to_string())
    }

    pub(crate) fn kibibytes(&self, pages: u64) -> u64 {
        pages.saturating_mul(self.page) / 1024
    }

    pub(crate) fn pages(&self, bytes: u64) -> u64 {
        bytes.checked_div(self.page).unwrap_or(0)
    }

    /// Thousandths of the machine's memory.
    pub(crate) fn memory_share(&self, process: &Process) -> u64 {
        process.rss_pages.saturating_mul(self.page).saturating_mul(1000).checked_div(self.memory).unwrap_or(0)
    }

    fn begun(&self, process: &Process) -> i64 {
        self.boot.saturating_add(i64::try_from(process.start / TICKS).unwrap_or(0))
    }

    /// Seconds of life.
    pub(crate) fn age(&self, process: &Process) -> u64 {
        u64::try_from(self.now.saturating_sub(self.begun(process))).unwrap_or(0)
    }

    /// Seconds of processor time.
    #[expect(clippy::unused_self, reason = "all times are asked of the machine")]
    pub(crate) fn seconds(&self, process: &Process) -> u64 {
        process.ticks / TICKS
    }

    /// Thousandths of one processor, over the whole life.
    pub(crate) fn share(&self, process: &Process) -> u64 {
        process.ticks.saturating_mul(1000 / TICKS).checked_div(self.age(process)).unwrap_or(0)
    }

    fn local(&self, process: &Process) -> (Local, bool, bool) {
        let (then, now) = (local(self.begun(process)), local(self.now));
        let year = then.year == now.year;
        (then, year, year && then.day_of_year == now.day_of_year)
    }

    /// The hour today, the day this year, else the year.
    pub(crate) fn start_short(&self, process: &Process) -> String {
        let (then, same_year, today) = self.local(process);
        match (same_year, today) {
            (_, true) => format!("{:02}:{:02}", then.hour, then.minute),
            (true, false) => format!("{}{:02}", month(then), then.day),
            (false, false) => then.year.to_string(),
        }
    }

    pub(crate) fn started(&self, process: &Process) -> String {
        let (then, _, _) = self.local(process);
        if self.age(process) < 86_400 {
            format!("{:02}:{:02}:{:02}", then.hour, then.minute, then.second)
        } else {
            format!("{} {:02}", month(then), then.day)
        }
    }

    pub(crate) fn start_long(&self, process: &Process) -> String {
        let (t, _, _) = self.local(process);
        let day = DAYS.get(usize::try_from(t.weekday).unwrap_or(0)).copied().unwrap_or("");
        format!("{day} {} {:2} {:02}:{:02}:{:02} {}", month(t), t.day, t.hour, t.minute, t.second, t.year)
    }
}

fn month(time: Local) -> &'static str {
    usize::try_from(time.month - 1).ok().and_then(|at| MONTHS.get(at)).copied().unwrap_or("")
}

/// Names by number, of a file with lines `name:x:number:...`. The first line of a number counts.
fn names(file: &str) -> HashMap<u32, String> {
    let mut map = HashMap::new();
    for line in fs::read_to_string(file).unwrap_or_default().lines() {
        let mut fields = line.split(':');
        if let (Some(name), Some(Ok(id))) = (fields.next(), fields.nth(1).map(str::parse)) {
            map.entry(id).or_insert_with(|| name.to_owned());
        }
    }
    map
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAT: &str = "7 (a) b (c) S 1 7 7 34816 7 4194560 10 0 3 0 250 50 0 0 20 0 2 0 500 4096000 100 0 \
        1 1 0 0 0 0 0 0 0 0 0 0 17 1 0 0 0 0 0 0 0 0 0 0 0 0 0";

    #[test]
    fn a_name_with_parentheses_is_one_field() {
        let process = parse(STAT).unwrap();
        assert_eq!((process.name.as_str(), process.state, process.ppid), ("a) b (c", 'S', 1));
        assert_eq!((process.ticks, process.threads, process.start), (300, 2, 500));
        assert_eq!(process.terminal(), "pts/0");
        let process = Process { pid: 7, ..process };
        assert_eq!(process.long_state(), "Ssl+");
    }

    #[test]
    fn children_stand_below_their_parents() {
        let process = |pid, ppid, start| Process { pid, ppid, start, ..Process::default() };
        let mut list = vec![process(1, 0, 1), process(4, 1, 4), process(2, 1, 2), process(3, 2, 9)];
        arrange(&mut list);
        assert_eq!(list.iter().map(|process| process.pid).collect::<Vec<_>>(), [1, 2, 3, 4]);
        assert_eq!(list[2].branch, "        \\_ ");
    }

    #[test]
    fn control_characters_of_a_command_do_not_pass() {
        assert_eq!(plain("a\x1b[1m\nb"), "a?[1m?b");
    }
}
