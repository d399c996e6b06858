use havre_oci::runtime::{
    LinuxSeccomp, SeccompAction, SeccompArch, SeccompArg, SeccompOperator, SeccompRule,
};

use super::*;
use crate::capabilities::CapabilitySet;

const X86_64: u32 = 0xc000_003e;
const X86: u32 = 0x4000_0003;
const ALLOW: u32 = 0x7fff_0000;
const KILL: u32 = 0x8000_0000;

const fn errno(number: u32) -> u32 {
    0x0005_0000 | number
}

/// What the kernel would do: an interpreter of the few operations that are used.
fn run(filter: &Filter, arch: u32, number: u32, arguments: [u64; 6]) -> u32 {
    let mut data = Vec::new();
    data.extend(number.to_le_bytes());
    data.extend(arch.to_le_bytes());
    data.extend([0; 8]);
    for argument in arguments {
        data.extend(argument.to_le_bytes());
    }
    let (mut accumulator, mut at) = (0_u32, 0_usize);
    loop {
        let instruction = filter.program[at];
        at += 1;
        let mut jump = |taken: bool| {
            at += usize::from(if taken { instruction.jt } else { instruction.jf });
        };
        match instruction.code {
            0x20 => {
                let from = instruction.k as usize;
                accumulator = u32::from_le_bytes(data[from..from + 4].try_into().unwrap());
            }
            0x54 => accumulator &= instruction.k,
            0x05 => at += instruction.k as usize,
            0x15 => jump(accumulator == instruction.k),
            0x25 => jump(accumulator > instruction.k),
            0x35 => jump(accumulator >= instruction.k),
            0x06 => return instruction.k,
            other => panic!("operation {other:#x}"),
        }
    }
}

fn rule(name: &str, action: SeccompAction, args: &[(u32, u64, SeccompOperator, u64)]) -> SeccompRule {
    SeccompRule {
        names: vec![name.into()],
        action,
        errno_ret: None,
        args: args
            .iter()
            .map(|(index, value, op, value_two)| SeccompArg {
                index: *index,
                value: *value,
                op: *op,
                value_two: *value_two,
            })
            .collect(),
    }
}

fn section(syscalls: Vec<SeccompRule>) -> LinuxSeccomp {
    LinuxSeccomp {
        default_action: SeccompAction::Errno,
        architectures: vec![SeccompArch::X86_64, SeccompArch::X86],
        syscalls,
        ..LinuxSeccomp::default()
    }
}

#[test]
fn comparisons_are_of_all_64_bits() {
    use SeccompOperator as Op;
    let big = 0x0000_0005_0000_0007_u64;
    let values = [0, 6, 7, 8, big - 1, big, big + 1, big - (1 << 32), big + (1 << 32), u64::MAX, 7 << 32];
    for op in Op::ALL {
        for bound in [0, 7, big, u64::MAX] {
            for two in [0, 7, big] {
                let filter =
                    compile(&section(vec![rule("socket", SeccompAction::Allow, &[(1, bound, *op, two)])]))
                        .unwrap();
                for value in values {
                    let holds = match op {
                        Op::Equal => value == bound,
                        Op::NotEqual => value != bound,
                        Op::Less => value < bound,
                        Op::LessOrEqual => value <= bound,
                        Op::Greater => value > bound,
                        Op::GreaterOrEqual => value >= bound,
                        Op::MaskedEqual => value & bound == two,
                    };
                    let expected = if holds { ALLOW } else { errno(1) };
                    let got = run(&filter, X86_64, 41, [0, value, 0, 0, 0, 0]);
                    assert_eq!(got, expected, "{value:#x} {op:?} {bound:#x} {two:#x}");
                }
            }
        }
    }
}

#[test]
fn the_first_rule_that_matches_decides() {
    use SeccompAction::{Allow, KillProcess, Log};
    use SeccompOperator::{Equal, Greater};
    let filter = compile(&section(vec![
        rule("socket", KillProcess, &[(0, 38, Equal, 0)]),
        rule("socket", Log, &[(0, 5, Greater, 0), (1, 1, Equal, 0)]),
        rule("socket", Allow, &[]),
        rule("socket", KillProcess, &[(0, 1, Equal, 0)]),
    ]))
    .unwrap();
    assert_eq!(run(&filter, X86_64, 41, [38, 1, 0, 0, 0, 0]), KILL);
    assert_eq!(run(&filter, X86_64, 41, [6, 1, 0, 0, 0, 0]), 0x7ffc_0000);
    assert_eq!(run(&filter, X86_64, 41, [6, 2, 0, 0, 0, 0]), ALLOW);
    assert_eq!(run(&filter, X86_64, 41, [1, 0, 0, 0, 0, 0]), ALLOW);
    // The same call has another number on x86.
    assert_eq!(run(&filter, X86, 359, [38, 0, 0, 0, 0, 0]), KILL);
    assert_eq!(run(&filter, X86, 41, [0; 6]), errno(1));
}

#[test]
fn one_argument_twice_means_either() {
    let filter = compile(&section(vec![rule(
        "personality",
        SeccompAction::Allow,
        &[(0, 0, SeccompOperator::Equal, 0), (0, 8, SeccompOperator::Equal, 0)],
    )]))
    .unwrap();
    for (value, expected) in [(0, ALLOW), (8, ALLOW), (4, errno(1))] {
        assert_eq!(run(&filter, X86_64, 135, [value, 0, 0, 0, 0, 0]), expected);
    }
}

#[test]
fn unlisted_architectures_end_the_process_and_calls_of_the_future_do_not_exist() {
    let filter = compile(&section(vec![rule("read", SeccompAction::Allow, &[])])).unwrap();
    assert_eq!(run(&filter, X86_64, 0, [0; 6]), ALLOW);
    assert_eq!(run(&filter, X86_64, 1, [0; 6]), errno(38));
    assert_eq!(run(&filter, 0xc000_00b7, 0, [0; 6]), KILL, "aarch64 is not listed");
    assert_eq!(run(&filter, X86_64, 0x4000_0000, [0; 6]), KILL, "x32 is not listed");
}

#[test]
fn the_default_profile_does_to_every_call_what_it_says() {
    let seccomp = docker_default(&CapabilitySet::docker_default()).unwrap();
    let filter = compile(&seccomp).unwrap();
    assert!(filter.len() < havre_sys::seccomp::MAX_INSTRUCTIONS, "{}", filter.len());
    let architectures =
        [(SeccompArch::X86_64, X86_64, 0), (SeccompArch::X86, X86, 1), (SeccompArch::X32, X86_64, 2)];
    for (arch, audit, column) in architectures {
        if !seccomp.architectures.contains(&arch) {
            continue;
        }
        let number_of = |row: &super::table::Row| u32::try_from(row.1[column]).ok();
        let newest = super::table::ROWS
            .iter()
            .filter(|row| seccomp.syscalls.iter().any(|rule| rule.names.iter().any(|name| name == row.0)))
            .filter_map(number_of)
            .max()
            .unwrap();
        for row in super::table::ROWS {
            let Some(number) = number_of(row) else { continue };
            let rules = || seccomp.syscalls.iter().filter(|rule| rule.names.iter().any(|name| name == row.0));
            if rules().any(|rule| !rule.args.is_empty()) {
                continue; // below
            }
            let expected = match rules().next() {
                Some(rule) if rule.action == SeccompAction::Allow => ALLOW,
                Some(rule) => errno(rule.errno_ret.unwrap_or(1)),
                None if number > newest => errno(38),
                None => errno(1),
            };
            assert_eq!(run(&filter, audit, number, [0; 6]), expected, "{} on {arch:?}", row.0);
        }
    }
    if seccomp.architectures.contains(&SeccompArch::X86_64) {
        // R16: no AF_ALG (38) and no vsock (40); clone without namespaces; clone3 does not exist.
        for (family, expected) in
            [(1, ALLOW), (2, ALLOW), (38, errno(1)), (39, ALLOW), (40, errno(1)), (41, ALLOW)]
        {
            assert_eq!(run(&filter, X86_64, 41, [family, 0, 0, 0, 0, 0]), expected, "socket {family}");
        }
        assert_eq!(
            run(&filter, X86_64, 56, [0x1200_0011, 0, 0, 0, 0, 0]),
            errno(1),
            "clone with a user namespace"
        );
        assert_eq!(run(&filter, X86_64, 56, [0x0120_0011, 0, 0, 0, 0, 0]), ALLOW, "clone");
        assert_eq!(run(&filter, X86_64, 435, [0; 6]), errno(38), "clone3");
    }
}

#[test]
fn what_cannot_be_compiled_is_refused() {
    let notify = section(vec![rule("read", SeccompAction::Notify, &[])]);
    let listener = LinuxSeccomp { listener_path: Some("/run/s".into()), ..section(vec![]) };
    let index = section(vec![rule("read", SeccompAction::Allow, &[(6, 0, SeccompOperator::Equal, 0)])]);
    let nowhere = LinuxSeccomp { architectures: vec![SeccompArch::S390x], ..section(vec![]) };
    let mut wide = section(vec![rule("read", SeccompAction::Errno, &[])]);
    wide.syscalls[0].errno_ret = Some(4096);
    for section in [notify, listener, index, nowhere, wide] {
        assert!(compile(&section).is_err(), "{section:?}");
    }
}

#[test]
fn bytes_of_a_filter_read_back_and_equal_sections_are_compiled_once() {
    let seccomp = docker_default(&CapabilitySet::docker_default()).unwrap();
    let cache = FilterCache::default();
    let filter = cache.get(&seccomp).unwrap();
    assert!(Arc::ptr_eq(&filter, &cache.get(&seccomp).unwrap()));
    assert_eq!(Filter::from_bytes(&filter.to_bytes()).unwrap(), *filter);
    assert!(Filter::from_bytes(&[1, 2, 3]).is_err());
}
