//! How much memory is taken, of which kind, and how much of it a process keeps when it is given
//! back.

use std::collections::BTreeMap;

use crate::backend::{ALWAYS_IDLE, kept_size};

/// What memory is taken for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Parameters, moments and averages, which are there all along.
    State,
    Gradients,
    /// What the way back needs.
    Activations,
    /// All that comes and goes.
    Transient,
}

/// Bytes of each kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Amounts([u64; 4]);

impl Amounts {
    pub(super) fn of(&self, kind: Kind) -> u64 {
        self.0[kind as usize]
    }

    pub(super) fn total(&self) -> u64 {
        self.0.iter().sum()
    }
}

/// Memory that was taken.
#[derive(Debug, Clone, Copy)]
pub(super) struct Block {
    bytes: u64,
    kind: Kind,
}

impl Block {
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }
}

#[derive(Debug, Default)]
pub(super) struct Account {
    now: Amounts,
    /// When most was taken.
    most: Amounts,
    /// Blocks that lie idle in this program's allocator, by their size.
    idle: BTreeMap<u64, usize>,
    idle_bytes: u64,
    resident: u64,
}

impl Account {
    pub(super) fn take(&mut self, bytes: u64, kind: Kind) -> Block {
        self.now.0[kind as usize] += bytes;
        if self.now.total() > self.most.total() {
            self.most = self.now;
        }
        self.take_resident(bytes);
        Block { bytes, kind }
    }

    pub(super) fn give_back(&mut self, block: Block) {
        self.now.0[block.kind as usize] -= block.bytes;
        if let Some(size) = kept(block.bytes) {
            *self.idle.entry(size).or_default() += 1;
            self.idle_bytes += size;
        }
    }

    /// The same memory for something else.
    pub(super) fn rename(&mut self, block: Block, kind: Kind) -> Block {
        self.now.0[block.kind as usize] -= block.bytes;
        self.now.0[kind as usize] += block.bytes;
        if self.now.total() == self.most.total() {
            self.most = self.now;
        }
        Block { kind, ..block }
    }

    /// What was taken when it was most.
    pub(super) fn most(&self) -> Amounts {
        self.most
    }

    /// The most that a process has had, by the rules of the program's allocator: what is taken, and
    /// what lies idle.
    pub(super) fn resident(&self) -> u64 {
        self.resident
    }

    fn take_resident(&mut self, bytes: u64) {
        if let Some(size) = kept(bytes) {
            match self.idle.get_mut(&size).filter(|count| **count > 0) {
                Some(count) => {
                    *count -= 1;
                    self.idle_bytes -= size;
                }
                None => self.make_room(most_idle(self.now.total() - bytes)),
            }
        }
        self.resident = self.resident.max(self.now.total() + self.idle_bytes);
    }

    /// Gives the largest idle blocks back to the system, until no more than so many bytes are idle.
    fn make_room(&mut self, most: u64) {
        while self.idle_bytes > most
            && let Some((size, count)) = self.idle.pop_last()
        {
            if count > 0 {
                self.idle_bytes -= size;
                self.idle.insert(size, count - 1);
            }
        }
    }
}

/// What the allocator keeps at most beside so many bytes in use.
pub(super) fn most_idle(used: u64) -> u64 {
    used.max(ALWAYS_IDLE as u64)
}

fn kept(bytes: u64) -> Option<u64> {
    kept_size(usize::try_from(bytes).ok()?).map(|size| size as u64)
}
