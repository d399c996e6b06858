//! What a link receives goes to another link first: so it can be queued, which the kernel does only where a link sends.
//!
//! What comes out of the other link is received by the first one after all. Invariant: everything is redirected or nothing:
//! the filter and what holds it are one thing here.
//! Source: tc-ingress, tc-u32(8), tc-mirred(8), and the headers `linux/pkt_cls.h`, `linux/tc_act/tc_mirred.h`.

use super::attribute::Writer;
use super::message::{CREATE, EXCL, REPLACE};
use super::qdisc::tcm;
use super::route::Changes;

/// `TC_H_INGRESS`.
const INGRESS: u32 = 0xffff_fff1;
/// The only handle that the one for what is received can have.
const HANDLE: u32 = 0xffff_0000;
/// The priority of our filter, before which nothing comes, and all protocols (`ETH_P_ALL` in network order).
const ALL: u32 = (1 << 16) | 0x0300;
const U32_SELECTOR: u16 = 5;
const U32_ACTION: u16 = 7;
const MATCHALL_ACTION: u16 = 2;
const ACTION_KIND: u16 = 1;
const ACTION_OPTIONS: u16 = 2;
const MIRRED_PARAMETERS: u16 = 2;
/// `TC_ACT_STOLEN`: nobody else sees the packet meanwhile.
const STOLEN: u32 = 4;
/// `TCA_EGRESS_REDIR`: it is sent there.
const REDIRECT: u32 = 1;

/// Which filter takes everything. Kernels have one or the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filter {
    /// `matchall`.
    Matchall,
    /// `u32` that compares nothing.
    U32,
}

/// `struct tc_u32_sel` with one key that holds for every packet.
fn selector() -> [u8; 32] {
    let mut selector = [0; 32];
    // `TC_U32_TERMINAL`, and one key.
    (selector[0], selector[2]) = (1, 1);
    selector
}

fn mirred(actions: &mut Writer<'_>, to: u32) {
    actions.nest(1, |action| {
        action.text(ACTION_KIND, "mirred");
        action.nest(ACTION_OPTIONS, |options| {
            // `struct tc_mirred`.
            let mut parameters = [0; 28];
            parameters[8..12].copy_from_slice(&STOLEN.to_ne_bytes());
            parameters[20..24].copy_from_slice(&REDIRECT.to_ne_bytes());
            parameters[24..28].copy_from_slice(&to.to_ne_bytes());
            options.bytes(MIRRED_PARAMETERS, &parameters);
        });
    });
}

impl Changes {
    /// Sends what the link number `from` receives to the link number `to`.
    pub fn redirect(&mut self, from: u32, to: u32, filter: Filter) -> &mut Self {
        let what = format!("queue what link number {from} receives");
        let header = tcm(from, HANDLE, INGRESS, 0);
        self.messages.push(libc::RTM_NEWQDISC, CREATE | REPLACE, what, &header, |writer| {
            writer.text(libc::TCA_KIND, "ingress");
        });
        let what = format!("redirect what link number {from} receives to link number {to}");
        let header = tcm(from, 0, HANDLE, ALL);
        self.messages.push(libc::RTM_NEWTFILTER, CREATE | EXCL, what, &header, |writer| match filter {
            Filter::Matchall => {
                writer.text(libc::TCA_KIND, "matchall");
                writer.nest(libc::TCA_OPTIONS, |options| {
                    options.nest(MATCHALL_ACTION, |actions| mirred(actions, to));
                });
            }
            Filter::U32 => {
                writer.text(libc::TCA_KIND, "u32");
                writer.nest(libc::TCA_OPTIONS, |options| {
                    options.bytes(U32_SELECTOR, &selector());
                    options.nest(U32_ACTION, |actions| mirred(actions, to));
                });
            }
        });
        self
    }

    /// The link number `from` receives what comes again. Where nothing was redirected it is an error.
    pub fn stop_redirect(&mut self, from: u32) -> &mut Self {
        let what = format!("stop queueing what link number {from} receives");
        self.messages.push(libc::RTM_DELQDISC, 0, what, &tcm(from, HANDLE, INGRESS, 0), |_| {});
        self
    }
}
