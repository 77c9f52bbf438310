//! Threads that stay awake between pieces of work of a few microseconds, which is what the products
//! of a single token are, and the operations of a small model in training: to wake one of rayon's
//! takes as long as such a piece.

use std::hint::spin_loop;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

/// How long a thread waits awake.
const PATIENCE: Duration = Duration::from_micros(200);
/// Parts for each thread, where there are as many, so that one that is late has few of them.
const PARTS: usize = 8;
/// Looks for work between two at the clock.
const LOOKS: usize = 256;
/// Bits of each of the two counts in [`Open`].
const PART_BITS: u32 = 16;
const PART_MASK: u64 = (1 << PART_BITS) - 1;

/// The end from which a thread takes parts. Parts are mostly rows, in order: a thread that always
/// begins at the same end finds in its own cache what it has written in the job before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    First,
    Last,
}

/// The number of a job and, below it, its parts that nobody has taken yet: from one count to
/// another.
#[derive(Debug, Clone, Copy)]
struct Open(u64);

impl Open {
    fn of_job(number: u64, parts: usize) -> Self {
        Self(number << (2 * PART_BITS) | (parts as u64) << PART_BITS)
    }

    fn job(self) -> u64 {
        self.0 >> (2 * PART_BITS)
    }

    fn from(self) -> u64 {
        self.0 & PART_MASK
    }

    fn to(self) -> u64 {
        self.0 >> PART_BITS & PART_MASK
    }

    fn is_empty(self) -> bool {
        self.from() >= self.to()
    }

    /// The part at an end, and what stays open without it; none where nothing is open.
    fn take(self, end: End) -> Option<(usize, Self)> {
        match end {
            _ if self.is_empty() => None,
            End::First => Some((self.from() as usize, Self(self.0 + 1))),
            End::Last => Some((self.to() as usize - 1, Self(self.0 - (1 << PART_BITS)))),
        }
    }
}

/// Work in parts, on the stack of who gives it out.
struct Job<'a> {
    run: &'a (dyn Fn(usize) + Sync),
    finished: AtomicUsize,
    panicked: AtomicBool,
}

impl Job<'_> {
    /// # Safety
    /// The job is alive until all of its parts have finished, of which this one has not.
    unsafe fn run(job: *const Self, part: usize) {
        // SAFETY: of the caller, until this part has finished.
        let (run, panicked) = unsafe { ((*job).run, &(*job).panicked) };
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| run(part))) {
            panicked.store(true, Ordering::Relaxed);
            // To drop it could panic again.
            std::mem::forget(panic);
        }
        // SAFETY: as above. The last that is seen of the job here: it may be gone at once.
        unsafe { (*job).finished.fetch_add(1, Ordering::Release) };
    }
}

/// Where work is given out.
struct Board {
    /// An [`Open`].
    open: AtomicU64,
    job: AtomicPtr<Job<'static>>,
    asleep: Vec<AtomicBool>,
}

impl Board {
    fn open(&self, ordering: Ordering) -> Open {
        Open(self.open.load(ordering))
    }

    /// Takes and does a part; none where all are taken.
    fn work(&self, end: End) -> bool {
        let mut open = self.open(Ordering::Acquire);
        let part = loop {
            let Some((part, rest)) = open.take(end) else { return false };
            let taken = self.open.compare_exchange_weak(
                open.0,
                rest.0,
                Ordering::AcqRel,
                Ordering::Acquire,
            );
            match taken {
                Ok(_) => break part,
                Err(now) => open = Open(now),
            }
        };
        // SAFETY: it was put there before its parts, and stays alive, and there, until all of them
        // have finished, of which this is one.
        unsafe { Job::run(self.job.load(Ordering::Relaxed), part) };
        true
    }

    /// What a thread of the team does all its life.
    fn attend(&self, number: usize) {
        loop {
            let mut idle_since = Instant::now();
            let mut looks = 0;
            while looks < LOOKS || idle_since.elapsed() < PATIENCE {
                if looks >= LOOKS {
                    looks = 0;
                    // Whoever else needs this core: the metrics, or the next batch.
                    thread::yield_now();
                }
                match self.work(End::First) {
                    true => (idle_since, looks) = (Instant::now(), 0),
                    false => looks += 1,
                }
                spin_loop();
            }
            let asleep = &self.asleep[number];
            asleep.store(true, Ordering::SeqCst);
            // Work that was given out before it was known that this thread sleeps.
            while asleep.load(Ordering::SeqCst) {
                if !self.open(Ordering::SeqCst).is_empty() {
                    asleep.store(false, Ordering::SeqCst);
                    break;
                }
                thread::park();
            }
        }
    }
}

struct Team {
    board: &'static Board,
    threads: Vec<Thread>,
    /// Held by who gives out work.
    desk: Mutex<()>,
}

impl Team {
    fn get() -> &'static Self {
        static TEAM: OnceLock<Team> = OnceLock::new();
        TEAM.get_or_init(|| {
            let count = rayon::current_num_threads() - 1;
            let board: &'static Board = Box::leak(Box::new(Board {
                open: AtomicU64::new(0),
                job: AtomicPtr::new(ptr::null_mut()),
                asleep: (0..count).map(|_| AtomicBool::new(false)).collect(),
            }));
            let start = |number: usize| {
                let name = format!("emberlm-{number}");
                let attend = move || board.attend(number);
                Some(thread::Builder::new().name(name).spawn(attend).ok()?.thread().clone())
            };
            // What a thread would do that cannot be had, others do.
            Team { board, threads: (0..count).map_while(start).collect(), desk: Mutex::new(()) }
        })
    }
}

/// Threads that share a piece of work, this one included.
pub(super) fn size() -> usize {
    Team::get().threads.len() + 1
}

/// Runs all parts, on this thread and on those of the team that are awake in time.
pub(super) fn run(parts: usize, run: &(dyn Fn(usize) + Sync)) {
    let team = Team::get();
    let alone = parts < 2 || team.threads.is_empty() || parts as u64 > PART_MASK;
    let Some(desk) = (!alone).then(|| team.desk.try_lock().ok()).flatten() else {
        return (0..parts).for_each(run);
    };
    let job = Job { run, finished: AtomicUsize::new(0), panicked: AtomicBool::new(false) };
    let board = team.board;
    board.job.store(ptr::from_ref(&job).cast_mut().cast(), Ordering::Relaxed);
    let number = board.open(Ordering::Relaxed).job().wrapping_add(1);
    board.open.store(Open::of_job(number, parts).0, Ordering::SeqCst);
    for (asleep, thread) in board.asleep.iter().zip(&team.threads) {
        if asleep.swap(false, Ordering::SeqCst) {
            thread.unpark();
        }
    }
    while board.work(End::Last) {}
    let mut looks = 0;
    while job.finished.load(Ordering::Acquire) < parts {
        looks += 1;
        if looks % LOOKS == 0 {
            // Who has the last part may need this core.
            thread::yield_now();
        }
        spin_loop();
    }
    drop(desk);
    if job.panicked.load(Ordering::Relaxed) {
        resume_unwind(Box::new("a part of a product has failed"));
    }
}

/// Something to do, on whatever thread.
pub(super) type Work<'a> = Box<dyn FnOnce() + Send + 'a>;

/// Does something with each of some things, on all threads.
pub(super) fn for_each<T: Send>(things: impl Iterator<Item = T>, each: impl Fn(T) + Sync) {
    let things: Vec<Mutex<Option<T>>> = things.map(|thing| Mutex::new(Some(thing))).collect();
    let parts = things.len().min(PARTS * size());
    run(parts, &|part| {
        for thing in &things[things.len() * part / parts..things.len() * (part + 1) / parts] {
            if let Some(thing) = thing.lock().unwrap_or_else(PoisonError::into_inner).take() {
                each(thing);
            }
        }
    });
}

/// What is made of each of some things, on all threads.
pub(super) fn map<T: Send, R: Send>(
    things: impl Iterator<Item = T>,
    each: impl Fn(T) -> R + Sync,
) -> Vec<R> {
    let things: Vec<T> = things.collect();
    let mut results: Vec<Option<R>> = things.iter().map(|_| None).collect();
    for_each(things.into_iter().zip(&mut results), |(thing, result)| *result = Some(each(thing)));
    results.into_iter().flatten().collect()
}
