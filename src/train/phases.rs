use std::ops::AddAssign;

/// Where the time of a step goes, in seconds; zero for what has no part in it.
///
/// The host's clock is read where the host has a number in its hands. A device that computes while
/// the host goes on may still be in the backward pass when the optimizer's time begins.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Phases {
    /// Waiting for batches.
    pub data: f64,
    /// Up to the loss, which the host reads. Kernels make the head's gradients in it, since they do
    /// not keep its logits.
    pub forward: f64,
    /// Up to the gradients.
    pub backward: f64,
    /// Clipping, the update of the weights, and that of their average.
    pub optimizer: f64,
}

impl AddAssign for Phases {
    fn add_assign(&mut self, other: Self) {
        self.data += other.data;
        self.forward += other.forward;
        self.backward += other.backward;
        self.optimizer += other.optimizer;
    }
}
