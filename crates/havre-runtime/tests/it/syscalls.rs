//! Every system call, against what the profile says of it.

use std::collections::BTreeMap;

use havre_oci::runtime::{LinuxSeccomp, SeccompAction, SeccompOperator};
use havre_sys::probe::{Answer, probe};

use super::world::{World, bind};
use super::{Test, roles};

pub(crate) const TESTS: &[Test] = &[("r17_every_call_is_answered_as_the_profile_says", r17)];

/// Up to beyond the newest call that the profile knows.
const LAST: u32 = 480;

/// Calls that end or stop the caller by what they do: rt_sigreturn, pause, vfork, exit, exit_group; and fchmod
/// and fchown, which would do something to standard input.
const NOT_MADE: [u32; 7] = [15, 34, 58, 60, 91, 93, 231];

/// Arguments that no call does harm with.
const ARGUMENTS: [u64; 2] = [u64::MAX, 0];

/// In the container: makes every call and says how it was answered.
pub(crate) fn call_all() {
    for argument in ARGUMENTS {
        for number in (0..=LAST).filter(|number| !NOT_MADE.contains(number)) {
            let answer = match probe(number, [argument; 6]).unwrap() {
                Answer::Done => "done".to_owned(),
                Answer::Failed(errno) => errno.to_string(),
                Answer::Killed => "killed".to_owned(),
                Answer::Stuck => "stuck".to_owned(),
            };
            println!("{argument:x} {number} {answer}");
        }
    }
}

/// uretprobe and uprobe: the kernel asks no filter about them (since 6.14).
const NOT_FILTERED: [u32; 2] = [335, 336];

/// What the profile says: allow, or this error.
fn expected(profile: &LinuxSeccomp, name: &str, number: u32, newest: u32, argument: u64) -> Option<u32> {
    if number > newest {
        return Some(38);
    }
    let default = profile.default_errno_ret.unwrap_or(1);
    let fits = |op: SeccompOperator, value: u64, two: u64| match op {
        SeccompOperator::NotEqual => argument != value,
        SeccompOperator::Less => argument < value,
        SeccompOperator::LessOrEqual => argument <= value,
        SeccompOperator::Equal => argument == value,
        SeccompOperator::GreaterOrEqual => argument >= value,
        SeccompOperator::Greater => argument > value,
        SeccompOperator::MaskedEqual => argument & value == two,
    };
    let rules = || {
        profile.syscalls.iter().filter(|rule| {
            rule.names.iter().any(|known| known == name)
                && rule.args.iter().all(|arg| fits(arg.op, arg.value, arg.value_two))
        })
    };
    if rules().any(|rule| rule.action == SeccompAction::Allow) {
        return None;
    }
    Some(rules().next().and_then(|rule| rule.errno_ret).unwrap_or(default))
}

fn answers(world: &mut World) -> BTreeMap<(String, u32), String> {
    let outcome = world.run(&["/caller", roles::CALLER]).unwrap();
    outcome
        .stdout
        .lines()
        .map(|line| {
            let mut words = line.split(' ').map(str::to_owned);
            let mut word = || words.next().unwrap();
            let (argument, number) = (word(), word().parse().unwrap());
            ((argument, number), word())
        })
        .collect()
}

fn r17() {
    let mut world = World::new();
    world.spec.mounts.push(bind(&std::env::current_exe().unwrap(), "/caller", &["ro"]));
    let filtered = answers(&mut world);
    let profile = world.linux().seccomp.take().unwrap();
    let plain = answers(&mut world);
    let names: BTreeMap<u32, &str> = havre_runtime::seccomp::calls().collect();
    assert!(filtered.len() > 900 && plain.len() == filtered.len(), "{} {}", filtered.len(), plain.len());
    // What is newer than every call that the profile names is unknown to it, not forbidden.
    let named = |name: &str| profile.syscalls.iter().any(|rule| rule.names.iter().any(|known| known == name));
    let newest = names.iter().filter(|(_, name)| named(name)).map(|(number, _)| *number).max().unwrap();
    let (mut refused, mut wrong) = (0, Vec::new());
    for ((argument, number), answer) in filtered.iter().filter(|((_, at), _)| !NOT_FILTERED.contains(at)) {
        let value = u64::from_str_radix(argument, 16).unwrap();
        let without = &plain[&(argument.clone(), *number)];
        match names.get(number) {
            Some(name) => match expected(&profile, name, *number, newest, value) {
                Some(errno) => {
                    refused += 1;
                    if *answer != errno.to_string() {
                        wrong.push(format!("{name}({argument}): {answer}, not {errno}"));
                    }
                }
                // With a filter the other mode of seccomp cannot be entered any more.
                None if answer != without && (*name, value) != ("seccomp", 0) => {
                    wrong.push(format!("{name}({argument}): {answer}, {without} without the filter"));
                }
                None => {}
            },
            // Numbers without a call: refused, one way or the other.
            None if !["1", "38"].contains(&answer.as_str()) => wrong.push(format!("{number}: {answer}")),
            None => {}
        }
    }
    println!("    {} answers, {refused} refused by the filter", filtered.len());
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(refused > 100, "{refused}");
}
