//! Splits what the counters moved among the calls in flight. Pure: no clock, no I/O.
//!
//! A *stretch* of a device is the time between two of its readings, and the joules that its counter moved meanwhile. It is
//! cut at each begin and end of a call; a piece with calls in it is split among them by weight, and a piece without any is
//! `unattributed`. Within a stretch power is taken as even, but for one thing that is known: a piece without a call draws
//! no more than the device does when it idles.
//!
//! **A call's share is final when every device has a reading from after its end.** Nothing is handed out in advance, so
//! nothing has to be taken back, and at every moment, for every device:
//!
//! ```text
//! attributed + unattributed + idle = what the counter moved
//! ```
//!
//! This is why the record of a call that ends between two readings waits for the next one (`session.rs`), in the background.
//! What must not wait (a flush, a stop, a device that was lost) takes the call's share as it is; what comes later of its
//! time is nobody's, and so unattributed.
//!
//! A failed read is not told to the ledger: the stretch goes on until the next good one. A counter that was reset is a
//! stretch of which nobody knows the joules ([`Ledger::lose`]): time without a reading, and no movement.

use std::collections::BTreeMap;

use super::Nanos;

/// By what calls that run at the same time share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Weight {
    /// All the same.
    #[default]
    Equal,
    /// One, and one more for each output token in the stretch: a call that is in its prompt counts as one.
    Tokens,
}

/// What a device's counter moved, and where it went, joules.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Totals {
    /// What the counter moved.
    pub moved: f64,
    /// What calls got.
    pub attributed: f64,
    /// What no call got.
    pub unattributed: f64,
    /// What was left out of the split, because the device would have drawn it anyway.
    pub idle: f64,
    /// Nanoseconds of which nobody knows what was drawn.
    pub lost: Nanos,
}

/// A call's share of one device.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Share {
    /// The device.
    pub device: usize,
    /// Joules; `None` if too little of the call's time was measured. They are unattributed, then.
    pub joules: Option<f64>,
    /// The part of them before the first token; `NAN` if nobody told of one.
    pub prefill: f64,
    /// Whether less than all of the call's time was measured, or it is shorter than a stretch that it is in.
    pub is_estimated: bool,
}

/// The least part of a call's time that must have been measured for its energy to be known.
pub const LEAST_COVERED: f64 = 0.9;

/// Call-free time from which the idle power is taken.
const IDLE_SAMPLE: Nanos = 1_000_000_000;

struct Account {
    totals: Totals,
    /// Up to here the counter's movements are split.
    settled: Nanos,
    /// It is gone, and will never be settled further.
    is_closed: bool,
    /// Calls that begin now count on it.
    is_up: bool,
    /// Watts without a call; `NAN` if there was no such time yet.
    idle_watts: f64,
    free_time: Nanos,
    free_joules: f64,
}

struct Call {
    begin: Nanos,
    first: Option<Nanos>,
    end: Option<Nanos>,
    tokens: u64,
    /// Its share was taken: what comes now is unattributed.
    is_taken: bool,
    parts: Vec<Part>,
}

#[derive(Clone, Copy, Default)]
struct Part {
    /// The device was there when the call began.
    is_in: bool,
    joules: f64,
    prefill: f64,
    covered: Nanos,
    longest: Nanos,
    tokens_before: u64,
}

/// Devices, calls, and who got what.
pub struct Ledger {
    weight: Weight,
    leaves_idle_out: bool,
    accounts: Vec<Account>,
    calls: BTreeMap<u64, Call>,
}

impl Ledger {
    /// An empty ledger.
    pub fn new(weight: Weight, leaves_idle_out: bool) -> Ledger {
        Ledger { weight, leaves_idle_out, accounts: Vec::new(), calls: BTreeMap::new() }
    }

    /// Adds a device, of which nothing is known yet; gives its number. Calls begun before do not share it.
    pub fn open(&mut self, at: Nanos) -> usize {
        self.accounts.push(Account {
            totals: Totals::default(),
            settled: at,
            is_closed: false,
            is_up: false,
            idle_watts: f64::NAN,
            free_time: 0,
            free_joules: 0.0,
        });
        self.accounts.len() - 1
    }

    /// Whether calls that begin from now on count on the device.
    pub fn set_up(&mut self, device: usize, is_up: bool) {
        self.accounts[device].is_up = is_up;
    }

    /// There will be no more readings of the device.
    pub fn close(&mut self, device: usize) {
        self.accounts[device].is_closed = true;
        self.accounts[device].is_up = false;
        self.forget_calls();
    }

    /// A call begins.
    pub fn begin(&mut self, call: u64, at: Nanos) {
        let part = |account: &Account| Part { is_in: account.is_up, ..Part::default() };
        let parts = self.accounts.iter().map(part).collect();
        let call_of = Call { begin: at, first: None, end: None, tokens: 0, is_taken: false, parts };
        self.calls.insert(call, call_of);
    }

    /// What a call has told so far: when its first token was, and how many there are.
    pub fn tell(&mut self, call: u64, first: Option<Nanos>, tokens: u64) {
        if let Some(call) = self.calls.get_mut(&call) {
            (call.first, call.tokens) = (call.first.or(first), tokens);
        }
    }

    /// A call ends.
    pub fn end(&mut self, call: u64, at: Nanos) {
        if let Some(call) = self.calls.get_mut(&call) {
            call.end = Some(at.max(call.begin));
        }
    }

    /// The device's counter moved so many joules since it was last settled, up to `to`.
    pub fn settle(&mut self, device: usize, to: Nanos, joules: f64) {
        let account = &mut self.accounts[device];
        let from = account.settled;
        account.totals.moved += joules;
        if to <= from {
            account.totals.unattributed += joules; // in no time, by nobody
            return;
        }
        account.settled = to;
        let sharing = Sharing::of(&self.calls, device, from, to, self.weight);
        let length = to - from;
        let occupied = sharing.occupied;

        let idle = |time: Nanos| Some(account.idle_watts * time as f64 / 1e9).filter(|idle| !idle.is_nan());
        let left_out = if self.leaves_idle_out { idle(length).unwrap_or(0.0).min(joules) } else { 0.0 };
        let rest = joules - left_out;
        let even = rest * (length - occupied) as f64 / length as f64;
        let free = match idle(length - occupied) {
            _ if occupied == 0 => rest,
            Some(_) if self.leaves_idle_out => 0.0, // what it idles with is left out already
            Some(idle) => idle.min(even),
            None => even,
        };

        let given = sharing.share((rest - free).max(0.0), &mut self.calls, device, from, to);
        account.totals.attributed += given;
        account.totals.unattributed += (rest - given).max(0.0);
        account.totals.idle += left_out;
        account.learn_idle(length, occupied, joules);
        self.forget_calls();
    }

    /// Nobody knows what the device has drawn since it was last settled, up to `to`.
    pub fn lose(&mut self, device: usize, to: Nanos) {
        let account = &mut self.accounts[device];
        account.totals.lost += to.saturating_sub(account.settled);
        account.settled = account.settled.max(to);
        self.forget_calls();
    }

    /// Whether nothing will change any more in the share of a call that has ended.
    pub fn is_settled(&self, call: u64) -> bool {
        self.calls.get(&call).is_none_or(|call| call.is_settled(&self.accounts))
    }

    /// Takes the share of a call that has ended: one for each device that was there when it began. What is measured later of
    /// its time is unattributed.
    pub fn take(&mut self, call: u64) -> Vec<Share> {
        let Some(it) = self.calls.get_mut(&call) else { return Vec::new() };
        it.is_taken = true;
        let duration = it.end.unwrap_or(it.begin) - it.begin;
        let mut shares = Vec::new();
        for (device, part) in it.parts.iter().enumerate().filter(|(_, part)| part.is_in) {
            let is_known = duration > 0 && part.covered as f64 >= LEAST_COVERED * duration as f64;
            if !is_known {
                let totals = &mut self.accounts[device].totals;
                totals.attributed = (totals.attributed - part.joules).max(0.0);
                totals.unattributed += part.joules;
            }
            shares.push(Share {
                device,
                joules: is_known.then_some(part.joules),
                prefill: if it.first.is_some() { part.prefill.min(part.joules) } else { f64::NAN },
                is_estimated: part.covered < duration || duration < part.longest,
            });
        }
        if it.is_settled(&self.accounts) {
            self.calls.remove(&call);
        }
        shares
    }

    /// Where the device's joules went.
    pub fn totals(&self, device: usize) -> Totals {
        self.accounts[device].totals
    }

    /// Up to when the device's joules are split.
    pub fn settled(&self, device: usize) -> Nanos {
        self.accounts[device].settled
    }

    /// What the device draws without a call, watts; `NAN` if that is not known yet.
    pub fn idle_watts(&self, device: usize) -> f64 {
        self.accounts[device].idle_watts
    }

    /// How many calls it knows of.
    pub fn calls(&self) -> usize {
        self.calls.len()
    }

    /// A call that was taken stays until the stretches that it is in are split, lest others get its part.
    fn forget_calls(&mut self) {
        let accounts = &self.accounts;
        self.calls.retain(|_, call| !call.is_taken || !call.is_settled(accounts));
    }
}

impl Call {
    fn is_settled(&self, accounts: &[Account]) -> bool {
        let Some(end) = self.end else { return false };
        let is_done =
            |(part, account): (&Part, &Account)| !part.is_in || account.is_closed || account.settled >= end;
        self.parts.iter().zip(accounts).all(is_done)
    }

    /// The part of the stretch that the call was in flight.
    fn overlap(&self, device: usize, from: Nanos, to: Nanos) -> Option<(Nanos, Nanos)> {
        let begin = self.begin.max(from);
        let end = self.end.unwrap_or(to).min(to);
        (begin < end && self.parts.get(device).is_some_and(|part| part.is_in)).then_some((begin, end))
    }

    fn weight(&self, device: usize, weight: Weight) -> f64 {
        match weight {
            Weight::Equal => 1.0,
            Weight::Tokens => 1.0 + self.tokens.saturating_sub(self.parts[device].tokens_before) as f64,
        }
    }
}

impl Account {
    /// The lowest power that was seen without a call, forgetting slowly: fans and clocks calm down after a load.
    fn learn_idle(&mut self, length: Nanos, occupied: Nanos, joules: f64) {
        if occupied > 0 {
            (self.free_time, self.free_joules) = (0, 0.0);
            return;
        }
        self.free_time += length;
        self.free_joules += joules;
        if self.free_time >= IDLE_SAMPLE {
            let watts = self.free_joules / (self.free_time as f64 / 1e9);
            let is_lower = self.idle_watts.is_nan() || watts < self.idle_watts;
            self.idle_watts =
                if is_lower { watts } else { self.idle_watts + 0.05 * (watts - self.idle_watts) };
            (self.free_time, self.free_joules) = (0, 0.0);
        }
    }
}

/// How the calls in flight share a stretch: a joule at a time costs each of them its weight over the weights of all.
struct Sharing {
    /// The moments at which something changes, with the weight in flight from there on and the length of 1/weight up to
    /// there.
    moments: Vec<(Nanos, f64, f64)>,
    /// Nanoseconds with a call in flight.
    occupied: Nanos,
    weight: Weight,
}

impl Sharing {
    fn of(calls: &BTreeMap<u64, Call>, device: usize, from: Nanos, to: Nanos, weight: Weight) -> Sharing {
        let mut moments = Vec::new();
        for call in calls.values() {
            let Some((begin, end)) = call.overlap(device, from, to) else { continue };
            let weight = call.weight(device, weight);
            moments.push((begin, weight, 0.0));
            moments.push((end, -weight, 0.0));
            if let Some(first) = call.first.filter(|first| (begin..end).contains(first)) {
                moments.push((first, 0.0, 0.0));
            }
        }
        moments.sort_unstable_by_key(|moment| moment.0);
        let mut occupied = 0;
        let (mut in_flight, mut length, mut before) = (0.0, 0.0, from);
        for (at, change, so_far) in &mut moments {
            if in_flight > 0.0 {
                occupied += *at - before;
                length += (*at - before) as f64 / in_flight;
            }
            in_flight += *change; // whole numbers: exactly 0 when the last one has ended
            (*change, *so_far, before) = (in_flight, length, *at);
        }
        Sharing { moments, occupied, weight }
    }

    /// The length of 1/weight up to a moment at which something changes.
    fn up_to(&self, at: Nanos) -> f64 {
        let first = self.moments.partition_point(|moment| moment.0 < at);
        self.moments.get(first).map_or(0.0, |moment| moment.2)
    }

    /// Gives the calls their shares; gives what those got that are not taken yet.
    fn share(
        &self,
        joules: f64,
        calls: &mut BTreeMap<u64, Call>,
        device: usize,
        from: Nanos,
        to: Nanos,
    ) -> f64 {
        let mut given = 0.0;
        let per_nano = if self.occupied > 0 { joules / self.occupied as f64 } else { 0.0 };
        for call in calls.values_mut() {
            let Some((begin, end)) = call.overlap(device, from, to) else { continue };
            let price = call.weight(device, self.weight) * per_nano;
            let length = |until: Nanos| (self.up_to(until) - self.up_to(begin)).max(0.0);
            let share = price * length(end);
            let prefill = match call.first {
                Some(first) if first <= begin => 0.0,
                Some(first) if first < end => price * length(first),
                _ => share,
            };
            let tokens = call.tokens;
            let part = &mut call.parts[device];
            part.tokens_before = tokens;
            if !call.is_taken {
                given += share;
                part.joules += share;
                part.prefill += prefill;
                part.covered += end - begin;
                part.longest = part.longest.max(to - from);
            }
        }
        given
    }
}
