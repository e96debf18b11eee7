//! Sources of the host program's own: rails of a board, another vendor's library, a wall meter.

use std::sync::Arc;

use super::source::{Device, Reading, Source};

/// What the host program reads.
pub trait Custom: Send + Sync {
    /// The device.
    fn device(&self) -> &Device;

    /// Reads it, by one thread at a time; `None`: it failed.
    fn read(&self) -> Option<Reading>;
}

pub(super) struct Registered(pub(super) Arc<dyn Custom>);

impl Source for Registered {
    fn devices(&self) -> &[Device] {
        std::slice::from_ref(self.0.device())
    }

    fn read(&mut self, _with_gauges: bool, each: &mut dyn FnMut(usize, Option<Reading>)) {
        each(0, self.0.read());
    }
}
