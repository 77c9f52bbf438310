//! Threads that compute one thing together, each on a device of its own.

use burn::tensor::Tensor;
use burn::tensor::TensorData;
use burn::tensor::backend::Backend;
use std::any::Any;
use std::fmt::{self, Debug, Formatter};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// A member of the group will not come any more, and so there are no meetings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("another thread has left the group")]
pub struct LeftAlone;

/// The place of a thread in a group. Whoever drops it leaves, by a panic too, and nobody waits for
/// them.
pub struct Member {
    rank: usize,
    group: Arc<Group>,
}

struct Group {
    members: usize,
    meeting: Mutex<Meeting>,
    changed: Condvar,
}

#[derive(Default)]
struct Meeting {
    /// By those who have come, each in its place.
    brought: Vec<Option<Brought>>,
    /// What was brought to the last meeting that all have come to.
    last: Vec<Brought>,
    /// Meetings that all have come to.
    held: u64,
    /// Somebody has left.
    is_over: bool,
}

type Brought = Arc<dyn Any + Send + Sync>;

impl Member {
    /// A group of so many, in the order of their ranks.
    pub fn group(members: usize) -> Vec<Self> {
        let meeting = Meeting { brought: vec![None; members], ..Meeting::default() };
        let (meeting, changed) = (Mutex::new(meeting), Condvar::new());
        let group = Arc::new(Group { members, meeting, changed });
        (0..members).map(|rank| Self { rank, group: group.clone() }).collect()
    }

    /// Counted from zero.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// Members of the group, this one included.
    pub fn members(&self) -> usize {
        self.group.members
    }

    /// Waits until all members have come, and hands each of them what all have brought, in the order
    /// of their ranks. Members come to the same meetings in the same order.
    ///
    /// # Errors
    /// Where a member has left before it came.
    pub fn meet<T: Send + Sync + 'static>(&self, brought: T) -> Result<Vec<Arc<T>>, LeftAlone> {
        let mut meeting = self.group.meeting();
        let number = meeting.held;
        meeting.brought[self.rank] = Some(Arc::new(brought));
        if meeting.brought.iter().all(Option::is_some) {
            let Meeting { brought, last, held, .. } = &mut *meeting;
            *last = brought.iter_mut().filter_map(Option::take).collect();
            *held += 1;
            self.group.changed.notify_all();
        }
        // Nobody can hold the next one before all have left this one.
        while meeting.held == number {
            if meeting.is_over {
                return Err(LeftAlone);
            }
            meeting = self.group.changed.wait(meeting).unwrap_or_else(PoisonError::into_inner);
        }
        let all = meeting.last.clone();
        drop(meeting);
        let of_type = |one: Brought| one.downcast().expect("all have come to the same meeting");
        Ok(all.into_iter().map(of_type).collect())
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.group.meeting().is_over = true;
        self.group.changed.notify_all();
    }
}

impl Debug for Member {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "member {} of {}", self.rank, self.group.members)
    }
}

impl Group {
    fn meeting(&self) -> MutexGuard<'_, Meeting> {
        // Nothing is left half done by a panic.
        self.meeting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// [`GptBackend::all_reduce`](super::GptBackend::all_reduce) over the host, in the order of the
/// ranks.
pub(super) fn all_reduce_over_host<B: Backend>(
    tensor: Tensor<B, 1>,
    member: &Member,
) -> Result<Tensor<B, 1>, LeftAlone> {
    let device = tensor.device();
    let all = member.meet(tensor.into_data().iter::<f32>().collect::<Vec<f32>>())?;
    let mut sum = all[0].to_vec();
    for other in &all[1..] {
        assert_eq!(other.len(), sum.len(), "tensors of one length");
        sum.iter_mut().zip(other.iter()).for_each(|(sum, number)| *sum += number);
    }
    let count = sum.len();
    Ok(Tensor::from_data(TensorData::new(sum, [count]), &device))
}
