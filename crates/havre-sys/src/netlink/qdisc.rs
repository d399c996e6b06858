//! How fast a link may send: a token bucket at its root.
//!
//! A link can only be told how fast to send. What a container receives is limited where the host's end of
//! its pair sends, and what it sends where its own end does; whoever may change links inside can lift the
//! second limit.
//! Source: tc-tbf(8), `linux/pkt_sched.h`, and `net/sched/sch_tbf.c` for what is in bytes and what in ticks.

use super::attribute::Attributes;
use super::message::{CREATE, DUMP, Message, Messages, REPLACE};
use super::route::Changes;

/// Length of `struct tcmsg`.
const HEADER: usize = 20;
/// `TC_H_ROOT`.
const ROOT: u32 = u32::MAX;
/// Ours, so that it can be told from what was there before.
const HANDLE: u32 = 0x4801_0000;
const TBF_PARAMETERS: u16 = 1;
const TBF_RATE64: u16 = 4;
const TBF_BURST: u16 = 6;
/// Length of `struct tc_tbf_qopt`.
const TBF_LENGTH: usize = 36;
/// `TC_LINKLAYER_ETHERNET`: the kernel computes sending times itself.
const ETHERNET: u8 = 1;
/// One tick of the packet scheduler is 64 ns (`PSCHED_SHIFT`).
const TICK_SHIFT: u32 = 6;

/// How fast a link may send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bucket {
    /// Bytes a second.
    pub rate: u64,
    /// How many bytes may go at once after a pause.
    pub burst: u32,
    /// How many bytes may wait; what comes beyond is dropped.
    pub queue: u32,
}

impl Bucket {
    /// With a burst of 20 ms, which is about what the kernel needs to reach the rate, though not less than some
    /// packets, and a queue of another 50 ms.
    #[must_use]
    pub fn for_rate(rate: u64) -> Self {
        let bytes = |milliseconds: u64| {
            u32::try_from(rate.saturating_mul(milliseconds) / 1000).unwrap_or(u32::MAX).min(1 << 28)
        };
        let burst = bytes(20).max(8 * 1024);
        Self { rate, burst, queue: burst.saturating_add(bytes(50).max(64 * 1024)) }
    }
}

/// A queueing discipline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Qdisc {
    /// The number of its link.
    pub index: u32,
    /// Its name in tc(8).
    pub kind: String,
    /// Whether it is the link's outermost.
    pub is_root: bool,
    /// Its settings, if it is a token bucket.
    pub bucket: Option<Bucket>,
}

fn header(index: u32, handle: u32, parent: u32) -> [u8; HEADER] {
    tcm(index, handle, parent, 0)
}

/// `struct tcmsg`.
pub(super) fn tcm(index: u32, handle: u32, parent: u32, info: u32) -> [u8; HEADER] {
    let mut header = [0; HEADER];
    header[16..20].copy_from_slice(&info.to_ne_bytes());
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..12].copy_from_slice(&handle.to_ne_bytes());
    header[12..16].copy_from_slice(&parent.to_ne_bytes());
    header
}

impl Changes {
    /// Limits how fast a link sends, in the place of any limit before.
    pub fn set_limit(&mut self, index: u32, bucket: Bucket) -> &mut Self {
        let what = format!("limit link number {index} to {} bytes a second", bucket.rate);
        let header = header(index, HANDLE, ROOT);
        self.messages.push(libc::RTM_NEWQDISC, CREATE | REPLACE, what, &header, |writer| {
            writer.text(libc::TCA_KIND, "tbf");
            writer.nest(libc::TCA_OPTIONS, |options| {
                let mut parameters = [0; TBF_LENGTH];
                parameters[1] = ETHERNET;
                let low = u32::try_from(bucket.rate).unwrap_or(u32::MAX);
                parameters[8..12].copy_from_slice(&low.to_ne_bytes());
                parameters[24..28].copy_from_slice(&bucket.queue.to_ne_bytes());
                options.bytes(TBF_PARAMETERS, &parameters);
                options.u32(TBF_BURST, bucket.burst);
                if u32::try_from(bucket.rate).is_err() {
                    options.u64(TBF_RATE64, bucket.rate);
                }
            });
        });
        self
    }

    /// Takes the limit away. Where there is none it is an error (`is_absent`).
    pub fn delete_limit(&mut self, index: u32) -> &mut Self {
        let what = format!("lift the limit of link number {index}");
        self.messages.push(libc::RTM_DELQDISC, 0, what, &header(index, HANDLE, ROOT), |_| {});
        self
    }
}

pub(super) fn request(index: u32) -> Messages {
    let mut messages = Messages::new();
    let what = format!("list the queueing of link number {index}");
    messages.push(libc::RTM_GETQDISC, DUMP, what, &header(index, 0, 0), |_| {});
    messages
}

pub(super) fn read(message: &Message<'_>) -> Option<Qdisc> {
    if message.kind != libc::RTM_NEWQDISC {
        return None;
    }
    let header = message.header::<HEADER>()?;
    let number = |at: usize| header.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes);
    let all = message.attributes(HEADER);
    let kind = all.get(libc::TCA_KIND)?.text()?.to_owned();
    let bucket = if kind == "tbf" { read_bucket(all.inside(libc::TCA_OPTIONS)) } else { None };
    Some(Qdisc { index: number(4)?, is_root: number(12)? == ROOT, kind, bucket })
}

fn read_bucket(options: Attributes<'_>) -> Option<Bucket> {
    let parameters = options.get(TBF_PARAMETERS)?.value;
    let number = |at: usize| parameters.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes);
    let rate = match options.get(TBF_RATE64).and_then(|rate| rate.u64()) {
        Some(rate) => rate,
        None => number(8)?.into(),
    };
    // The burst is told as the time that it takes.
    let nanoseconds = u128::from(number(28)?) << TICK_SHIFT;
    let burst = (nanoseconds * u128::from(rate)).div_ceil(1_000_000_000);
    Some(Bucket { rate, burst: u32::try_from(burst).unwrap_or(u32::MAX), queue: number(24)? })
}
