//! Which devices a group may use.
//!
//! Invariant: everything is denied before the first rule, and the devices that every container has
//! (null, zero, full, tty, random, urandom, console, ptmx, the terminals, and making nodes of any number)
//! are allowed behind the last. Rules count in order, a later one over an earlier.

use std::fs::File;
use std::path::Path;

use havre_oci::runtime::DeviceRule;
use havre_sys::bpf::{self, Instruction};

use super::write_file;
use crate::error::{RuntimeError, Step};

const MKNOD: u8 = 1;
const READ: u8 = 2;
const WRITE: u8 = 4;
const EVERY: u8 = MKNOD | READ | WRITE;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Block,
    Char,
}

impl Kind {
    fn letter(self) -> char {
        match self {
            Self::Block => 'b',
            Self::Char => 'c',
        }
    }

    /// BPF_DEVCG_DEV_*
    fn number(self) -> i32 {
        match self {
            Self::Block => 1,
            Self::Char => 2,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry {
    kind: Kind,
    major: Option<u32>,
    minor: Option<u32>,
    access: u8,
}

impl Entry {
    fn text(&self) -> String {
        let number = |number: Option<u32>| number.map_or_else(|| "*".to_owned(), |number| number.to_string());
        let letters = [(READ, 'r'), (WRITE, 'w'), (MKNOD, 'm')];
        let access: String =
            letters.iter().filter(|(bit, _)| self.access & bit != 0).map(|(_, letter)| *letter).collect();
        format!("{} {}:{} {access}", self.kind.letter(), number(self.major), number(self.minor))
    }

    fn same_devices(&self, other: &Self) -> bool {
        (self.kind, self.major, self.minor) == (other.kind, other.major, other.minor)
    }

    fn overlaps(&self, other: &Self) -> bool {
        let meet = |a: Option<u32>, b: Option<u32>| a.is_none() || b.is_none() || a == b;
        self.kind == other.kind
            && meet(self.major, other.major)
            && meet(self.minor, other.minor)
            && self.access & other.access != 0
    }
}

/// The outcome of a list of rules: one answer for all devices, and exceptions from it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Policy {
    allowed: bool,
    exceptions: Vec<Entry>,
}

impl Policy {
    pub(super) fn of(rules: &[DeviceRule]) -> Result<Self, RuntimeError> {
        let mut policy = Self { allowed: false, exceptions: Vec::new() };
        for rule in rules {
            policy.add(rule)?;
        }
        for entry in defaults() {
            policy.set(entry, true)?;
        }
        Ok(policy)
    }

    fn add(&mut self, rule: &DeviceRule) -> Result<(), RuntimeError> {
        let bad = |reason: String| RuntimeError::invalid("linux.resources.devices", reason);
        let number = |number: Option<i64>| match number {
            None | Some(-1) => Ok(None),
            Some(number) => u32::try_from(number).map(Some).map_err(|_| bad(format!("number {number}"))),
        };
        let (major, minor) = (number(rule.major)?, number(rule.minor)?);
        let mut access = 0;
        for letter in rule.access.as_deref().unwrap_or("rwm").chars() {
            access |= match letter {
                'r' => READ,
                'w' => WRITE,
                'm' => MKNOD,
                other => return Err(bad(format!("access {other:?}"))),
            };
        }
        match rule.kind.as_deref().unwrap_or("a") {
            "a" => {
                if major.is_some() || minor.is_some() || access != EVERY {
                    return Err(bad("a rule for all types is for all numbers and every access".into()));
                }
                *self = Self { allowed: rule.allow, exceptions: Vec::new() };
                Ok(())
            }
            "b" => self.set(Entry { kind: Kind::Block, major, minor, access }, rule.allow),
            "c" | "u" => self.set(Entry { kind: Kind::Char, major, minor, access }, rule.allow),
            other => Err(bad(format!("type {other:?}"))),
        }
    }

    fn set(&mut self, entry: Entry, allow: bool) -> Result<(), RuntimeError> {
        if allow == self.allowed {
            for known in self.exceptions.iter_mut().filter(|known| known.same_devices(&entry)) {
                known.access &= !entry.access;
            }
            self.exceptions.retain(|known| known.access != 0);
            if self.exceptions.iter().any(|known| known.overlaps(&entry)) {
                // Part of a wildcard cannot be taken back: the kernel's list has no order.
                return Err(RuntimeError::unsupported(
                    "linux.resources.devices",
                    format!("\"{}\" is an exception from an exception", entry.text()),
                ));
            }
            return Ok(());
        }
        match self.exceptions.iter_mut().find(|known| known.same_devices(&entry)) {
            Some(known) => known.access |= entry.access,
            None => self.exceptions.push(entry),
        }
        Ok(())
    }

    pub(super) fn write_v1(&self, folder: &Path) -> Result<(), RuntimeError> {
        let (all, each) =
            if self.allowed { ("devices.allow", "devices.deny") } else { ("devices.deny", "devices.allow") };
        write_file(&folder.join(all), "a").step_with(|| format!("set {all}"))?;
        for entry in &self.exceptions {
            let text = entry.text();
            write_file(&folder.join(each), &text).step_with(|| format!("set {each} to {text:?}"))?;
        }
        Ok(())
    }

    pub(super) fn attach_v2(&self, folder: &Path) -> Result<(), RuntimeError> {
        let group = File::open(folder).step_with(|| format!("open cgroup {}", folder.display()))?;
        let program = bpf::load_device_program(&self.program()).step("load the device program")?;
        // The new program is in force before the old ones go: at no moment is more allowed than by
        // either of them.
        let before = bpf::device_programs(&group).step("list device programs")?;
        bpf::attach_device_program(&group, &program).step("attach the device program")?;
        for old in before {
            bpf::detach_device_program(&group, &old).step("detach the old device program")?;
        }
        Ok(())
    }

    /// The program: 1 allows, 0 denies.
    fn program(&self) -> Vec<Instruction> {
        const LOAD: u8 = 0x61;
        const AND: u8 = 0x57;
        const SHIFT_RIGHT: u8 = 0x77;
        const MOVE: u8 = 0xb7;
        const MOVE_REGISTER: u8 = 0xbf;
        const SKIP_UNLESS_EQUAL: u8 = 0x55;
        const SKIP_UNLESS_SAME: u8 = 0x5d;
        const SKIP_IF_EQUAL: u8 = 0x15;
        const EXIT: u8 = 0x95;

        let (fallback, exception) = (i32::from(self.allowed), i32::from(!self.allowed));
        // r2 kind, r3 access, r4 major, r5 minor of struct bpf_cgroup_dev_ctx, whose address is in r1.
        let mut program = vec![
            Instruction::new(LOAD, 2, 1, 0, 0),
            Instruction::new(MOVE_REGISTER, 3, 2, 0, 0),
            Instruction::new(AND, 2, 0, 0, 0xffff),
            Instruction::new(SHIFT_RIGHT, 3, 0, 0, 16),
            Instruction::new(LOAD, 4, 1, 4, 0),
            Instruction::new(LOAD, 5, 1, 8, 0),
        ];
        for entry in &self.exceptions {
            // Tests that skip to the next entry; their distance is known when all are there.
            let mut tests = vec![(SKIP_UNLESS_EQUAL, 2, 0, entry.kind.number())];
            if entry.access != EVERY {
                // Allowed: only if nothing else is asked for. Denied: if any of it is.
                let (code, source) = if self.allowed { (SKIP_IF_EQUAL, 0) } else { (SKIP_UNLESS_SAME, 3) };
                tests.push((MOVE_REGISTER, 1, 3, 0));
                tests.push((AND, 1, 0, i32::from(entry.access)));
                tests.push((code, 1, source, 0));
            }
            tests.extend(entry.major.map(|number| (SKIP_UNLESS_EQUAL, 4, 0, number.cast_signed())));
            tests.extend(entry.minor.map(|number| (SKIP_UNLESS_EQUAL, 5, 0, number.cast_signed())));
            let count = tests.len();
            for (index, (code, destination, source, value)) in tests.into_iter().enumerate() {
                let skips = matches!(code, SKIP_UNLESS_EQUAL | SKIP_UNLESS_SAME | SKIP_IF_EQUAL);
                // At most eight tests and two instructions behind them.
                let distance = if skips { i16::try_from(count - index + 1).unwrap_or(0) } else { 0 };
                program.push(Instruction::new(code, destination, source, distance, value));
            }
            program.push(Instruction::new(MOVE, 0, 0, 0, exception));
            program.push(Instruction::new(EXIT, 0, 0, 0, 0));
        }
        program.push(Instruction::new(MOVE, 0, 0, 0, fallback));
        program.push(Instruction::new(EXIT, 0, 0, 0, 0));
        program
    }
}

fn defaults() -> impl Iterator<Item = Entry> {
    let any = |kind| Entry { kind, major: None, minor: None, access: MKNOD };
    let char = |major, minor| Entry { kind: Kind::Char, major: Some(major), minor, access: EVERY };
    [
        any(Kind::Char),
        any(Kind::Block),
        char(1, Some(3)), // null
        char(1, Some(5)), // zero
        char(1, Some(7)), // full
        char(1, Some(8)), // random
        char(1, Some(9)), // urandom
        char(5, Some(0)), // tty
        char(5, Some(1)), // console
        char(5, Some(2)), // ptmx
        char(136, None),  // terminals of devpts
    ]
    .into_iter()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(allow: bool, kind: Option<&str>, numbers: [Option<i64>; 2], access: &str) -> DeviceRule {
        DeviceRule {
            allow,
            kind: kind.map(str::to_owned),
            major: numbers[0],
            minor: numbers[1],
            access: Some(access.to_owned()),
        }
    }

    /// Runs the program as the kernel would.
    fn allows(policy: &Policy, kind: i64, access: i64, major: i64, minor: i64) -> bool {
        let program = policy.program();
        let context = [(access << 16) | kind, major, minor];
        let (mut registers, mut at) = ([0_i64; 11], 0_usize);
        loop {
            let bytes = format!("{:?}", program[at]);
            let registers_byte: u8 =
                bytes.split("registers: ").nth(1).unwrap().split(',').next().unwrap().parse().unwrap();
            let instruction = program[at];
            at += 1;
            let (to, from) = (usize::from(registers_byte & 0xf), usize::from(registers_byte >> 4));
            let value = i64::from(instruction.immediate);
            let mut skip =
                |skip: bool| at += if skip { usize::try_from(instruction.offset).unwrap() } else { 0 };
            match instruction.code {
                0x61 => registers[to] = context[usize::try_from(instruction.offset).unwrap() / 4],
                0x57 => registers[to] &= value,
                0x77 => registers[to] >>= value,
                0xb7 => registers[to] = value,
                0xbf => registers[to] = registers[from],
                0x55 => skip(registers[to] != value),
                0x5d => skip(registers[to] != registers[from]),
                0x15 => skip(registers[to] == value),
                0x95 => return registers[0] == 1,
                other => panic!("operation {other:#x}"),
            }
        }
    }

    #[test]
    fn everything_is_denied_but_what_every_container_has() {
        let policy = Policy::of(&[]).unwrap();
        assert!(!policy.allowed);
        for (kind, access, major, minor, expected) in [
            (2, 2, 1, 3, true),   // read null
            (2, 6, 1, 3, true),   // read and write null
            (2, 2, 1, 1, false),  // read mem
            (1, 1, 8, 0, true),   // make a disk node
            (1, 3, 8, 0, false),  // make and read it
            (1, 2, 8, 0, false),  // read it
            (2, 6, 136, 7, true), // terminal
            (2, 6, 10, 229, false),
        ] {
            assert_eq!(
                allows(&policy, kind, access, major, minor),
                expected,
                "{kind} {access} {major}:{minor}"
            );
        }
    }

    #[test]
    fn later_rules_count_over_earlier_ones() {
        let all = rule(true, None, [None, None], "rwm");
        let none = rule(false, Some("a"), [None, None], "rwm");
        let fuse = rule(true, Some("c"), [Some(10), Some(229)], "rw");
        let policy = Policy::of(&[none.clone(), fuse.clone()]).unwrap();
        assert!(allows(&policy, 2, 6, 10, 229) && !allows(&policy, 2, 2, 10, 230));

        let no_write = rule(false, Some("c"), [Some(10), Some(229)], "w");
        let policy = Policy::of(&[none.clone(), fuse.clone(), no_write]).unwrap();
        assert!(allows(&policy, 2, 2, 10, 229) && !allows(&policy, 2, 4, 10, 229));

        let policy = Policy::of(&[none, fuse, all.clone()]).unwrap();
        assert_eq!(policy, Policy { allowed: true, exceptions: vec![] });
        let no_disk = rule(false, Some("b"), [Some(8), None], "rw");
        let policy = Policy::of(&[all, no_disk]).unwrap();
        assert!(allows(&policy, 1, 1, 8, 0) && !allows(&policy, 1, 2, 8, 5) && allows(&policy, 1, 2, 9, 0));
    }

    #[test]
    fn rules_that_no_list_can_express_are_refused() {
        let none = rule(false, None, [None, None], "rwm");
        let disks = rule(true, Some("b"), [Some(8), None], "rwm");
        let one = rule(false, Some("b"), [Some(8), Some(1)], "rwm");
        assert!(Policy::of(&[none.clone(), disks, one]).is_err());
        for bad in [
            rule(true, Some("a"), [Some(1), None], "rwm"),
            rule(true, Some("x"), [None, None], "rwm"),
            rule(true, Some("c"), [Some(-2), None], "rwm"),
            rule(true, Some("c"), [None, None], "rwx"),
        ] {
            assert!(Policy::of(&[none.clone(), bad]).is_err());
        }
    }
}
