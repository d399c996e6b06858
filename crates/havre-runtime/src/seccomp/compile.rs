//! From rules to a program.
//!
//! The program looks at the architecture, then finds the call's number by binary search over ranges of
//! numbers with one outcome, then checks conditions in the order of the rules. The first rule that
//! matches decides.

use std::collections::{BTreeMap, HashMap};
use std::sync::OnceLock;

use havre_oci::runtime::{
    LinuxSeccomp, SeccompAction, SeccompArch, SeccompArg, SeccompOperator, SeccompRule,
};
use havre_sys::seccomp::{Instruction, MAX_INSTRUCTIONS};

use super::table::ROWS;
use super::{Filter, kernel_flags};
use crate::error::RuntimeError;

// Operations of classic BPF (linux/bpf_common.h).
const LOAD: u16 = 0x20;
const JUMP: u16 = 0x05;
const IF_EQUAL: u16 = 0x15;
const IF_GREATER: u16 = 0x25;
const IF_GREATER_OR_EQUAL: u16 = 0x35;
const AND: u16 = 0x54;
const RETURN: u16 = 0x06;

// Fields of struct seccomp_data.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ARGUMENTS: u32 = 16;

// Outcomes (linux/seccomp.h).
const RET_KILL_PROCESS: u32 = 0x8000_0000;
const RET_KILL_THREAD: u32 = 0;
const RET_TRAP: u32 = 0x0003_0000;
const RET_ERRNO: u32 = 0x0005_0000;
const RET_TRACE: u32 = 0x7ff0_0000;
const RET_LOG: u32 = 0x7ffc_0000;
const RET_ALLOW: u32 = 0x7fff_0000;

const EPERM: u32 = 1;
const ENOSYS: u32 = 38;
const X32_BIT: u32 = 0x4000_0000;
/// ARM's private calls start here; they say nothing about how new a profile is.
const ARM_PRIVATE: u32 = 0xf_0000;

/// Number of the architecture (linux/audit.h) and its column in the table.
fn architecture(arch: SeccompArch) -> Option<(u32, usize)> {
    match arch {
        SeccompArch::X86_64 => Some((0xc000_003e, 0)),
        SeccompArch::X86 => Some((0x4000_0003, 1)),
        SeccompArch::X32 => Some((0xc000_003e, 2)),
        SeccompArch::Aarch64 => Some((0xc000_00b7, 3)),
        SeccompArch::Arm => Some((0x4000_0028, 4)),
        _ => None,
    }
}

fn native() -> Option<SeccompArch> {
    match std::env::consts::ARCH {
        "x86_64" => Some(SeccompArch::X86_64),
        "aarch64" => Some(SeccompArch::Aarch64),
        _ => None,
    }
}

fn rows() -> &'static HashMap<&'static str, &'static [i32; 5]> {
    static MAP: OnceLock<HashMap<&'static str, &'static [i32; 5]>> = OnceLock::new();
    MAP.get_or_init(|| ROWS.iter().map(|(name, numbers)| (*name, numbers)).collect())
}

fn outcome(action: SeccompAction, errno: Option<u32>) -> Result<u32, RuntimeError> {
    let refused =
        |reason: &str| RuntimeError::unsupported(format!("linux.seccomp {}", action.as_str()), reason);
    let number = |default: u32| match errno {
        // The kernel cuts larger ones to this without a word.
        Some(errno) if errno > 4095 => Err(refused("the error number is above 4095")),
        Some(errno) => Ok(errno),
        None => Ok(default),
    };
    if errno.is_some_and(|errno| errno != 0)
        && !matches!(action, SeccompAction::Errno | SeccompAction::Trace | SeccompAction::Trap)
    {
        return Err(refused("this action takes no error number"));
    }
    Ok(match action {
        SeccompAction::Kill | SeccompAction::KillThread => RET_KILL_THREAD,
        SeccompAction::KillProcess => RET_KILL_PROCESS,
        SeccompAction::Trap => RET_TRAP | number(0)?,
        SeccompAction::Errno => RET_ERRNO | number(EPERM)?,
        SeccompAction::Trace => RET_TRACE | number(EPERM)?,
        SeccompAction::Allow => RET_ALLOW,
        SeccompAction::Log => RET_LOG,
        SeccompAction::Notify => return Err(refused("there is no notification listener")),
    })
}

/// What happens to one call: conditional outcomes in order, then a final one.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Handler {
    conditional: Vec<(Vec<SeccompArg>, u32)>,
    last: u32,
}

/// Compiles the section. The result depends on nothing but the section.
pub fn compile(seccomp: &LinuxSeccomp) -> Result<Filter, RuntimeError> {
    if seccomp.listener_path.is_some() || seccomp.listener_metadata.is_some() {
        return Err(RuntimeError::unsupported(
            "linux.seccomp.listenerPath",
            "there is no notification listener",
        ));
    }
    kernel_flags(seccomp)?;
    let default = outcome(seccomp.default_action, seccomp.default_errno_ret)?;
    let mut archs = seccomp.architectures.clone();
    if archs.is_empty() {
        archs.extend(native());
    }
    let mut sections: BTreeMap<u32, Vec<(SeccompArch, usize)>> = BTreeMap::new();
    for arch in archs {
        // An architecture that this kernel can never run needs no section: its calls cannot happen.
        if let Some((number, column)) = architecture(arch)
            && !sections.entry(number).or_default().iter().any(|(known, _)| *known == arch)
        {
            sections.entry(number).or_default().push((arch, column));
        }
    }
    if sections.is_empty() {
        return Err(RuntimeError::unsupported("linux.seccomp.architectures", "none that this runtime knows"));
    }

    let mut code = Code::default();
    code.load(ARCHITECTURE);
    for (number, members) in sections {
        let mut section = Code::default();
        section.load(NUMBER);
        let column = |wanted: SeccompArch| members.iter().find(|(arch, _)| *arch == wanted).map(|(_, c)| *c);
        if number == 0xc000_003e {
            // x86-64 and x32 share their number; a bit of the call's number tells them apart.
            let x32 = match column(SeccompArch::X32) {
                Some(column) => numbers_section(seccomp, column, default)?,
                None => Code::returning(RET_KILL_PROCESS),
            };
            let x86_64 = match column(SeccompArch::X86_64) {
                Some(column) => numbers_section(seccomp, column, default)?,
                None => Code::returning(RET_KILL_PROCESS),
            };
            section.branch(IF_GREATER_OR_EQUAL, X32_BIT, x32, x86_64);
        } else {
            for (_, column) in &members {
                section.append(numbers_section(seccomp, *column, default)?);
            }
        }
        let mut rest = Code::default();
        rest.skip_unless_equal(number, section);
        code.append(rest);
    }
    code.append(Code::returning(RET_KILL_PROCESS));
    if code.0.len() > MAX_INSTRUCTIONS {
        return Err(RuntimeError::unsupported(
            "linux.seccomp.syscalls",
            format!("the filter needs {} instructions, the kernel takes {MAX_INSTRUCTIONS}", code.0.len()),
        ));
    }
    Ok(Filter { program: code.0 })
}

/// The calls of one architecture. The number is in the accumulator.
fn numbers_section(seccomp: &LinuxSeccomp, column: usize, default: u32) -> Result<Code, RuntimeError> {
    let mut handlers: BTreeMap<u32, (Handler, bool)> = BTreeMap::new();
    let mut newest = None;
    for rule in &seccomp.syscalls {
        let value = outcome(rule.action, rule.errno_ret)?;
        let conditions = alternatives(rule)?;
        for name in &rule.names {
            // A name of another architecture, or one newer than the table, has no number here.
            let Some(number) = rows().get(name.as_str()).and_then(|row| u32::try_from(row[column]).ok())
            else {
                continue;
            };
            if number & !X32_BIT < ARM_PRIVATE {
                newest = newest.max(Some(number));
            }
            let (handler, decided) = handlers
                .entry(number)
                .or_insert_with(|| (Handler { conditional: Vec::new(), last: default }, false));
            if *decided {
                continue; // an earlier rule without conditions has decided already
            }
            if conditions.is_empty() {
                (handler.last, *decided) = (value, true);
            } else {
                handler.conditional.extend(conditions.iter().map(|args| (args.clone(), value)));
            }
        }
    }

    // Ranges: each starts where the one before ends, neighbours differ.
    let plain = |last: u32| Handler { conditional: Vec::new(), last };
    let mut ranges: Vec<(u32, Handler)> = Vec::new();
    let mut push = |start: u32, handler: Handler| {
        if ranges.last().is_none_or(|(_, before)| *before != handler) {
            ranges.push((start, handler));
        }
    };
    let has_any = newest.is_some();
    let newest = newest.unwrap_or(u32::MAX);
    let beyond = if default & 0xffff_0000 == RET_ERRNO && has_any { RET_ERRNO | ENOSYS } else { default };
    let gap = |start: u32| plain(if start > newest { beyond } else { default });
    let mut next = 0;
    for (number, (handler, _)) in handlers {
        if number > next {
            push(next, gap(next));
            if next <= newest && number > newest.saturating_add(1) {
                push(newest.saturating_add(1), gap(number));
            }
        }
        push(number, handler);
        next = number.saturating_add(1);
    }
    push(next, gap(next));
    Ok(search(&ranges))
}

/// The conditions of a rule as alternatives, each of which must hold whole. A rule that names one
/// argument twice means either condition, as it does in runc.
fn alternatives(rule: &SeccompRule) -> Result<Vec<Vec<SeccompArg>>, RuntimeError> {
    if let Some(bad) = rule.args.iter().find(|arg| arg.index > 5) {
        return Err(RuntimeError::invalid(
            "linux.seccomp.syscalls.args",
            format!("index {} is above 5", bad.index),
        ));
    }
    let mut seen = [false; 6];
    let twice = rule.args.iter().any(|arg| {
        let index = usize::try_from(arg.index).unwrap_or(0);
        std::mem::replace(&mut seen[index], true)
    });
    Ok(match (rule.args.is_empty(), twice) {
        (true, _) => Vec::new(),
        (_, true) => rule.args.iter().map(|arg| vec![arg.clone()]).collect(),
        (_, false) => vec![rule.args.clone()],
    })
}

fn search(ranges: &[(u32, Handler)]) -> Code {
    match ranges {
        [] => Code::returning(RET_KILL_PROCESS),
        [(_, handler)] => handle(handler),
        _ => {
            let (low, high) = ranges.split_at(ranges.len() / 2);
            let mut code = Code::default();
            code.branch(IF_GREATER_OR_EQUAL, high[0].0, search(high), search(low));
            code
        }
    }
}

fn handle(handler: &Handler) -> Code {
    let mut code = Code::default();
    for (conditions, value) in &handler.conditional {
        let mut body = Code::returning(*value);
        for condition in conditions.iter().rev() {
            body = guard(condition, body);
        }
        code.append(body);
    }
    code.append(Code::returning(handler.last));
    code
}

/// Runs `body`, which ends with a return, if the condition holds; else goes on behind it.
fn guard(condition: &SeccompArg, body: Code) -> Code {
    let [low, high] = halves(condition.value);
    let offset = ARGUMENTS + condition.index * 8;
    // Little endian, which all known architectures are: the low half comes first.
    let (low_at, high_at) = (offset, offset + 4);
    let mut code = Code::default();
    match condition.op {
        SeccompOperator::Equal => {
            code.all(&[Test::equal(high_at, high), Test::equal(low_at, low)], body);
        }
        SeccompOperator::NotEqual => {
            // Either half differs.
            let skip_body = body.0.len();
            code.load(high_at);
            code.test(IF_EQUAL, high, 0, 2);
            code.load(low_at);
            code.test(IF_EQUAL, low, 1, 0);
            code.jump(1);
            code.jump(skip_body);
            code.append(body);
        }
        SeccompOperator::MaskedEqual => {
            let [low_value, high_value] = halves(condition.value_two);
            code.all(
                &[
                    Test { at: high_at, mask: Some(high), value: high_value },
                    Test { at: low_at, mask: Some(low), value: low_value },
                ],
                body,
            );
        }
        SeccompOperator::Greater | SeccompOperator::GreaterOrEqual => {
            let compare =
                if condition.op == SeccompOperator::Greater { IF_GREATER } else { IF_GREATER_OR_EQUAL };
            code.ordered([low_at, high_at], [low, high], compare, true, body);
        }
        SeccompOperator::Less | SeccompOperator::LessOrEqual => {
            // Less is "not greater or equal", less or equal is "not greater".
            let compare =
                if condition.op == SeccompOperator::Less { IF_GREATER_OR_EQUAL } else { IF_GREATER };
            code.ordered([low_at, high_at], [low, high], compare, false, body);
        }
    }
    code
}

fn halves(value: u64) -> [u32; 2] {
    let [a, b, c, d, e, f, g, h] = value.to_le_bytes();
    [u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h])]
}

/// Half of an argument equals a value, after masking.
struct Test {
    at: u32,
    mask: Option<u32>,
    value: u32,
}

impl Test {
    fn equal(at: u32, value: u32) -> Self {
        Self { at, mask: None, value }
    }
}

/// A piece of program. Far jumps go through an unconditional one, since conditional ones reach 255.
#[derive(Default)]
struct Code(Vec<Instruction>);

impl Code {
    fn returning(value: u32) -> Self {
        Self(vec![Instruction { code: RETURN, jt: 0, jf: 0, k: value }])
    }

    fn append(&mut self, mut other: Self) {
        self.0.append(&mut other.0);
    }

    fn load(&mut self, at: u32) {
        self.0.push(Instruction { code: LOAD, jt: 0, jf: 0, k: at });
    }

    fn test(&mut self, code: u16, k: u32, jt: u8, jf: u8) {
        self.0.push(Instruction { code, jt, jf, k });
    }

    fn jump(&mut self, distance: usize) {
        // A program is far shorter than this; one that is not is refused by its length.
        let k = u32::try_from(distance).unwrap_or(u32::MAX);
        self.0.push(Instruction { code: JUMP, jt: 0, jf: 0, k });
    }

    /// `yes` if the comparison holds, else `no`. Both end with a return.
    fn branch(&mut self, code: u16, k: u32, yes: Self, no: Self) {
        if let Ok(distance) = u8::try_from(no.0.len()) {
            self.test(code, k, distance, 0);
        } else {
            self.test(code, k, 0, 1);
            self.jump(no.0.len());
        }
        self.append(no);
        self.append(yes);
    }

    /// `body`, which ends with a return, if the accumulator is `value`; else what follows.
    fn skip_unless_equal(&mut self, value: u32, body: Self) {
        self.test(IF_EQUAL, value, 1, 0);
        self.jump(body.0.len());
        self.append(body);
    }

    /// `body` if every test holds.
    fn all(&mut self, tests: &[Test], body: Self) {
        let mut tail = body;
        for test in tests.iter().rev() {
            let mut code = Self::default();
            code.load(test.at);
            if let Some(mask) = test.mask {
                code.0.push(Instruction { code: AND, jt: 0, jf: 0, k: mask });
            }
            code.skip_unless_equal(test.value, tail);
            tail = code;
        }
        self.append(tail);
    }

    /// `body` if the argument, compared as 64 bits by `compare` (greater, or greater or equal), gives
    /// `wanted`.
    fn ordered(&mut self, at: [u32; 2], value: [u32; 2], compare: u16, wanted: bool, body: Self) {
        // 5 jumps to the body, 6 behind it.
        let (holds, fails) = if wanted { (5, 6) } else { (6, 5) };
        self.load(at[1]);
        self.test(IF_GREATER, value[1], holds - 2, 0);
        self.test(IF_EQUAL, value[1], 0, fails - 3);
        self.load(at[0]);
        self.test(compare, value[0], holds - 5, fails - 5);
        self.jump(1);
        self.jump(body.0.len());
        self.append(body);
    }
}
