//! What the arguments of `ps` ask for. Pure.

use super::columns::{self, Column};

/// What to show.
pub(crate) struct Layout {
    pub(crate) columns: Vec<Column>,
    /// A row a thread.
    pub(crate) threads: bool,
    /// Children below their parents.
    pub(crate) forest: bool,
}

/// What is understood, for messages.
const KNOWN: &str =
    "supported are -A -a -d -e -f -F -H -j -l -L -M -o -T -w -y -Z --format --forest and a u x f j l o w Z";

#[derive(Default)]
struct Asked {
    full: bool,
    extra_full: bool,
    long: bool,
    no_flags: bool,
    jobs: bool,
    threads: bool,
    spid: bool,
    label: bool,
    forest: bool,
    bsd: bool,
    user: bool,
    bsd_long: bool,
    bsd_jobs: bool,
    formats: Vec<String>,
}

/// Reads the arguments; none is Docker's `-ef`.
pub(crate) fn parse(args: &str) -> Result<Layout, String> {
    let mut words = args.split_whitespace().peekable();
    let mut asked = Asked::default();
    if words.peek().is_none() {
        asked.full = true;
    }
    while let Some(word) = words.next() {
        if let Some(long) = word.strip_prefix("--") {
            let (name, value) =
                long.split_once('=').map_or((long, None), |(name, value)| (name, Some(value)));
            match name {
                "forest" => asked.forest = true,
                "format" => {
                    let value = value.or_else(|| words.next());
                    asked.formats.push(value.ok_or_else(no_format)?.to_owned());
                }
                _ => return Err(format!("ps: error: unsupported option --{name}: {KNOWN}")),
            }
            continue;
        }
        let (letters, bsd) = word.strip_prefix('-').map_or((word, true), |letters| (letters, false));
        for (at, letter) in letters.char_indices() {
            let taken = if bsd { asked.bsd(letter) } else { asked.unix(letter) };
            if !taken {
                let kind = if bsd { "BSD" } else { "UNIX" };
                return Err(format!("ps: error: unsupported option '{letter}' ({kind} syntax): {KNOWN}"));
            }
            if letter == 'o' {
                let rest = letters.get(at + 1..).unwrap_or_default();
                let format = if rest.is_empty() { words.next().ok_or_else(no_format)? } else { rest };
                asked.formats.push(format.to_owned());
                break;
            }
        }
    }
    Ok(Layout { columns: asked.columns()?, threads: asked.threads || asked.spid, forest: asked.forest })
}

fn no_format() -> String {
    "ps: error: format specification must follow -o".into()
}

impl Asked {
    /// Options with a dash.
    fn unix(&mut self, letter: char) -> bool {
        match letter {
            // Whom to select: always the container's processes.
            'A' | 'a' | 'd' | 'e' | 'w' | 'o' => {}
            'f' => self.full = true,
            'F' => (self.full, self.extra_full) = (true, true),
            'l' => self.long = true,
            'y' => self.no_flags = true,
            'j' => self.jobs = true,
            'L' => self.threads = true,
            'T' => self.spid = true,
            'H' => self.forest = true,
            'Z' | 'M' => self.label = true,
            _ => return false,
        }
        true
    }

    /// Options without a dash.
    fn bsd(&mut self, letter: char) -> bool {
        self.bsd = true;
        match letter {
            'a' | 'x' | 'w' | 'g' | 'o' => {}
            'u' => self.user = true,
            'f' => self.forest = true,
            'l' => self.bsd_long = true,
            'j' => self.bsd_jobs = true,
            'Z' => self.label = true,
            _ => return false,
        }
        true
    }

    fn columns(&self) -> Result<Vec<Column>, String> {
        if !self.formats.is_empty() {
            let mut list = Vec::new();
            for format in &self.formats {
                list.extend(chosen(format)?);
            }
            return Ok(list);
        }
        let mut names: Vec<&str> = if self.user {
            words("user pid %cpu %mem vsz rss tname stat bsdstart bsdtime args")
        } else if self.bsd_long {
            words("f uid pid ppid pri ni vsz rss wchan stat tname bsdtime args")
        } else if self.bsd_jobs {
            words("ppid pid pgid sid tname tpgid stat uid bsdtime args")
        } else if self.bsd {
            words("pid tname stat bsdtime args")
        } else if self.long && self.no_flags {
            words("s uid pid ppid c pri ni rss sz wchan tname time ucmd")
        } else if self.long {
            words("f s uid pid ppid c pri ni addr sz wchan tname time ucmd")
        } else if self.extra_full {
            words("uid_name pid ppid c sz rss psr stime tname time cmd")
        } else if self.full {
            words("uid_name pid ppid c stime tname time cmd")
        } else if self.jobs {
            words("pid pgid sid tname time ucmd")
        } else {
            words("pid tname time ucmd")
        };
        let after = |names: &mut Vec<&str>, name: &str, new: &'static str| {
            let at = names.iter().position(|have| *have == name).map_or(names.len(), |at| at + 1);
            names.insert(at, new);
        };
        if self.threads {
            after(&mut names, if self.full || self.long { "ppid" } else { "pid" }, "lwp");
            if self.full || self.long {
                after(&mut names, "c", "nlwp");
            }
        }
        if self.spid {
            after(&mut names, "pid", "spid");
        }
        if self.label {
            names.insert(0, "label");
        }
        names.into_iter().map(|name| columns::find(name, None).ok_or_else(|| unknown(name))).collect()
    }
}

fn words(text: &'static str) -> Vec<&'static str> {
    text.split(' ').collect()
}

fn unknown(name: &str) -> String {
    format!("ps: error: unknown user-defined format specifier \"{name}\": supported are {}", columns::names())
}

/// `pid,comm=COMMAND,...`: what follows `=` is the heading, to the end.
fn chosen(format: &str) -> Result<Vec<Column>, String> {
    let mut list = Vec::new();
    let mut rest = format;
    while !rest.is_empty() {
        let end = rest.find(',').unwrap_or(rest.len());
        let (spec, title, tail) = match rest.find('=').filter(|at| *at < end) {
            Some(at) => {
                let title = rest.get(at + 1..end).unwrap_or_default();
                (rest.get(..at).unwrap_or_default(), Some(title), rest.get(end + 1..).unwrap_or_default())
            }
            None => (rest.get(..end).unwrap_or_default(), None, rest.get(end + 1..).unwrap_or_default()),
        };
        if let Some(title) = title.filter(|title| title.starts_with("PID") && spec != "pid") {
            // Docker's words: another column must not pose as the one that identifies.
            return Err(format!("specifying \"{spec}={title}\" is not allowed"));
        }
        if !spec.is_empty() {
            list.push(columns::find(spec, title).ok_or_else(|| unknown(spec))?);
        }
        rest = tail;
    }
    if list.is_empty() { Err(no_format()) } else { Ok(list) }
}
