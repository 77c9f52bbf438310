use std::ops::AddAssign;

/// Where the time of a step goes, in seconds; zero for what has no part in it.
///
/// They are read from the host's clock. On a device that computes while the host goes on, the forward
/// pass takes no longer here than it takes to ask for it, and the backward pass has what the host
/// waits for the device, once in a step: where a device's own time goes is for its tools to tell.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Phases {
    /// Waiting for batches.
    pub data: f64,
    /// Up to the loss. Kernels make the head's gradients in it, since they do not keep its logits.
    pub forward: f64,
    /// Up to the gradients of all devices, and until the host has read the losses and the norm.
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
