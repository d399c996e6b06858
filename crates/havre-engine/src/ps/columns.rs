//! The columns that `ps` knows, with the headings of procps.

use super::process::{Machine, Process};

/// How a cell is made.
pub(crate) type Show = fn(&Process, &Machine) -> String;

/// A column.
pub(crate) struct Column {
    pub(crate) title: String,
    pub(crate) show: Show,
}

/// Names, headings and cells. Names that mean the same follow each other.
const COLUMNS: &[(&str, &str, Show)] = &[
    ("pid", "PID", |p, _| p.pid.to_string()),
    ("tgid", "TGID", |p, _| p.pid.to_string()),
    ("ppid", "PPID", |p, _| p.ppid.to_string()),
    ("pgid", "PGID", |p, _| p.pgrp.to_string()),
    ("pgrp", "PGRP", |p, _| p.pgrp.to_string()),
    ("sid", "SID", |p, _| p.session.to_string()),
    ("sess", "SESS", |p, _| p.session.to_string()),
    ("session", "SESS", |p, _| p.session.to_string()),
    ("tpgid", "TPGID", |p, _| p.tpgid.to_string()),
    ("lwp", "LWP", |p, _| p.tid.to_string()),
    ("tid", "TID", |p, _| p.tid.to_string()),
    ("spid", "SPID", |p, _| p.tid.to_string()),
    ("nlwp", "NLWP", |p, _| p.threads.to_string()),
    ("thcount", "THCNT", |p, _| p.threads.to_string()),
    ("uid", "UID", |p, _| p.uids[1].to_string()),
    ("uid_name", "UID", |p, m| m.user(p.uids[1])),
    ("euid", "EUID", |p, _| p.uids[1].to_string()),
    ("ruid", "RUID", |p, _| p.uids[0].to_string()),
    ("suid", "SUID", |p, _| p.uids[2].to_string()),
    ("user", "USER", |p, m| m.user(p.uids[1])),
    ("uname", "USER", |p, m| m.user(p.uids[1])),
    ("euser", "EUSER", |p, m| m.user(p.uids[1])),
    ("ruser", "RUSER", |p, m| m.user(p.uids[0])),
    ("suser", "SUSER", |p, m| m.user(p.uids[2])),
    ("gid", "GID", |p, _| p.gids[1].to_string()),
    ("egid", "EGID", |p, _| p.gids[1].to_string()),
    ("rgid", "RGID", |p, _| p.gids[0].to_string()),
    ("group", "GROUP", |p, m| m.group(p.gids[1])),
    ("egroup", "EGROUP", |p, m| m.group(p.gids[1])),
    ("rgroup", "RGROUP", |p, m| m.group(p.gids[0])),
    ("comm", "COMMAND", |p, _| p.name()),
    ("ucomm", "COMMAND", |p, _| p.name()),
    ("ucmd", "CMD", |p, _| p.name()),
    ("cmd", "CMD", |p, _| p.command()),
    ("args", "COMMAND", |p, _| p.command()),
    ("command", "COMMAND", |p, _| p.command()),
    ("exe", "EXE", |p, _| p.program()),
    ("c", "C", |p, m| m.share(p).checked_div(10).unwrap_or(0).min(99).to_string()),
    ("%cpu", "%CPU", |p, m| tenths(m.share(p))),
    ("pcpu", "%CPU", |p, m| tenths(m.share(p))),
    ("%mem", "%MEM", |p, m| tenths(m.memory_share(p))),
    ("pmem", "%MEM", |p, m| tenths(m.memory_share(p))),
    ("vsz", "VSZ", |p, _| (p.vsize / 1024).to_string()),
    ("vsize", "VSZ", |p, _| (p.vsize / 1024).to_string()),
    ("rss", "RSS", |p, m| m.kibibytes(p.rss_pages).to_string()),
    ("rssize", "RSS", |p, m| m.kibibytes(p.rss_pages).to_string()),
    ("rsz", "RSZ", |p, m| m.kibibytes(p.rss_pages).to_string()),
    ("sz", "SZ", |p, m| m.pages(p.vsize).to_string()),
    ("addr", "ADDR", |_, _| "-".into()),
    ("tty", "TT", |p, _| p.terminal()),
    ("tt", "TT", |p, _| p.terminal()),
    ("tname", "TTY", |p, _| p.terminal()),
    ("stat", "STAT", |p, _| p.long_state()),
    ("s", "S", |p, _| p.state.to_string()),
    ("state", "S", |p, _| p.state.to_string()),
    ("start", "STARTED", |p, m| m.started(p)),
    ("start_time", "START", |p, m| m.start_short(p)),
    ("stime", "STIME", |p, m| m.start_short(p)),
    ("bsdstart", "START", |p, m| m.start_short(p)),
    ("lstart", "STARTED", |p, m| m.start_long(p)),
    ("etime", "ELAPSED", |p, m| elapsed(m.age(p))),
    ("etimes", "ELAPSED", |p, m| m.age(p).to_string()),
    ("time", "TIME", |p, m| clock(m.seconds(p))),
    ("cputime", "TIME", |p, m| clock(m.seconds(p))),
    ("cputimes", "TIME", |p, m| m.seconds(p).to_string()),
    ("times", "TIME", |p, m| m.seconds(p).to_string()),
    ("bsdtime", "TIME", |p, m| format!("{}:{:02}", m.seconds(p) / 60, m.seconds(p) % 60)),
    ("ni", "NI", |p, _| p.nice.to_string()),
    ("nice", "NI", |p, _| p.nice.to_string()),
    ("pri", "PRI", |p, _| (39 - p.priority).to_string()),
    ("priority", "PRI", |p, _| p.priority.to_string()),
    ("psr", "PSR", |p, _| p.processor.to_string()),
    ("wchan", "WCHAN", |p, _| p.waits_in()),
    ("f", "F", |p, _| p.shown_flags()),
    ("flag", "F", |p, _| p.shown_flags()),
    ("flags", "F", |p, _| p.shown_flags()),
    ("maj_flt", "MAJFL", |p, _| p.major_faults.to_string()),
    ("min_flt", "MINFL", |p, _| p.minor_faults.to_string()),
    ("rtprio", "RTPRIO", |p, _| if p.rt_priority == 0 { "-".into() } else { p.rt_priority.to_string() }),
    ("class", "CLS", |p, _| p.class().into()),
    ("cls", "CLS", |p, _| p.class().into()),
    ("cgroup", "CGROUP", |p, _| p.cgroup()),
    ("label", "LABEL", |p, _| p.label()),
];

/// The column of a name, with its own heading or another.
pub(crate) fn find(name: &str, title: Option<&str>) -> Option<Column> {
    let (_, own, show) = COLUMNS.iter().find(|(known, _, _)| *known == name)?;
    Some(Column { title: title.unwrap_or(own).to_owned(), show: *show })
}

/// All names, for messages.
pub(crate) fn names() -> String {
    COLUMNS.iter().map(|(name, _, _)| *name).filter(|name| *name != "uid_name").collect::<Vec<_>>().join(" ")
}

fn tenths(value: u64) -> String {
    format!("{}.{}", value / 10, value % 10)
}

/// `[days-]hours:minutes:seconds`.
fn clock(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let time = format!("{:02}:{:02}:{:02}", rest / 3_600, rest / 60 % 60, rest % 60);
    if days == 0 { time } else { format!("{days}-{time}") }
}

/// `[[days-]hours:]minutes:seconds`.
fn elapsed(seconds: u64) -> String {
    if seconds < 3_600 { format!("{:02}:{:02}", seconds / 60, seconds % 60) } else { clock(seconds) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_ps_does() {
        assert_eq!((clock(3_661).as_str(), clock(90_061).as_str()), ("01:01:01", "1-01:01:01"));
        assert_eq!((elapsed(61).as_str(), elapsed(7_200).as_str()), ("01:01", "02:00:00"));
        assert_eq!((tenths(7).as_str(), tenths(1_234).as_str()), ("0.7", "123.4"));
    }
}
