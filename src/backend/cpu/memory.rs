//! Large blocks of memory are kept for whoever asks for as much again. Tensors come and go at every
//! step; an allocator that gives their pages back has the kernel fill them with zeros each time,
//! which at GPT-2's size takes a third of a training step.

use std::alloc::{GlobalAlloc, Layout};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

/// Bytes from which blocks are kept; the allocator below is good at less.
const LARGE: usize = 1 << 18;
/// A block is of up to a sixteenth more bytes than asked for, so that those of similar sizes can
/// replace each other. Pages that nobody has written to cost no memory.
const STEPS: usize = 16;
/// Of large blocks: any vector, and a line of the cache.
const ALIGNMENT: usize = 64;
/// Bytes that may always lie idle; beyond them no more than are in use.
pub const ALWAYS_IDLE: usize = 64 << 20;
/// Bytes of a huge page on x86-64; where it has others, the kernel uses what fits.
#[cfg(target_os = "linux")]
const HUGE_PAGE: usize = 2 << 20;
/// More sizes than an address has.
const CLASSES: usize = usize::BITS as usize * STEPS;

/// The size of the block that an [`Allocator`] keeps where so many bytes are given back; none where
/// it leaves them to the allocator below.
pub fn kept_size(bytes: usize) -> Option<usize> {
    let layout = Layout::from_size_align(bytes, ALIGNMENT).ok()?;
    Class::of(layout).map(Class::size)
}

/// How many ask for blocks not to be kept now.
static FORGETTING: AtomicUsize = AtomicUsize::new(0);

/// Runs something that frees a lot which nobody will ask for again; other threads' blocks are not
/// kept meanwhile either.
pub fn without_keeping<R>(run: impl FnOnce() -> R) -> R {
    struct Forgetting;

    impl Drop for Forgetting {
        fn drop(&mut self) {
            FORGETTING.fetch_sub(1, Ordering::Relaxed);
        }
    }

    FORGETTING.fetch_add(1, Ordering::Relaxed);
    let _forgetting = Forgetting;
    run()
}

/// An allocator that keeps large blocks, on top of another one.
#[derive(Debug)]
pub struct Allocator<A> {
    below: A,
    blocks: Mutex<Blocks>,
}

/// The large blocks of an [`Allocator`].
#[derive(Debug)]
struct Blocks {
    /// A list for each class.
    idle: [Option<Block>; CLASSES],
    idle_bytes: usize,
    used_bytes: usize,
}

/// A block that is idle; its first bytes are the rest of the list that it is in, since memory that
/// an allocator asks itself for would be asked for under its own lock.
#[derive(Debug, Clone, Copy)]
struct Block(NonNull<Option<Block>>);

// SAFETY: an idle block belongs to the list alone.
unsafe impl Send for Block {}

/// The sizes between two steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Class {
    doublings: u32,
    step: usize,
}

impl Class {
    /// None of a small block, which is the allocator's below.
    fn of(layout: Layout) -> Option<Self> {
        if layout.size() < LARGE || layout.align() > ALIGNMENT {
            return None;
        }
        let doublings = layout.size().ilog2();
        let step = (layout.size() - (1 << doublings)).div_ceil((1 << doublings) / STEPS);
        let class = Self { doublings: doublings + (step / STEPS) as u32, step: step % STEPS };
        Layout::from_size_align(class.size(), ALIGNMENT).is_ok().then_some(class)
    }

    fn size(self) -> usize {
        (STEPS + self.step) << (self.doublings - STEPS.ilog2())
    }

    fn layout(self) -> Layout {
        Layout::from_size_align(self.size(), ALIGNMENT).expect("checked when it was chosen")
    }

    fn index(self) -> usize {
        self.doublings as usize * STEPS + self.step
    }

    fn all() -> impl DoubleEndedIterator<Item = Self> {
        let doublings = LARGE.ilog2()..usize::BITS - 1;
        doublings.flat_map(|doublings| (0..STEPS).map(move |step| Self { doublings, step }))
    }
}

impl Blocks {
    fn put(&mut self, class: Class, start: NonNull<u8>) {
        let block = Block(start.cast());
        let rest = self.idle[class.index()].replace(block);
        // SAFETY: large enough and aligned, and nobody else's.
        unsafe { block.0.write(rest) };
        self.idle_bytes += class.size();
        self.used_bytes -= class.size();
    }

    /// An idle block, which is in use from now on.
    fn take(&mut self, class: Class) -> Option<NonNull<u8>> {
        let block = self.idle[class.index()]?;
        // SAFETY: written when it was put there.
        self.idle[class.index()] = unsafe { block.0.read() };
        self.idle_bytes -= class.size();
        self.used_bytes += class.size();
        Some(block.0.cast())
    }
}

impl<A> Allocator<A> {
    pub const fn new(below: A) -> Self {
        let blocks = Blocks { idle: [None; CLASSES], idle_bytes: 0, used_bytes: 0 };
        Self { below, blocks: Mutex::new(blocks) }
    }
}

impl<A: GlobalAlloc> Allocator<A> {
    fn with<R>(&self, change: impl FnOnce(&mut Blocks) -> R) -> R {
        change(&mut self.blocks.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A block that was idle, or a new one by `new`, of which so many bytes are asked for.
    fn block(&self, class: Class, bytes: usize, new: impl Fn(&A) -> *mut u8) -> (*mut u8, bool) {
        let block = self.with(|blocks| {
            let block = blocks.take(class);
            if block.is_none() {
                self.make_room(blocks, ALWAYS_IDLE.max(blocks.used_bytes));
            }
            block
        });
        if let Some(block) = block {
            return (block.as_ptr(), true);
        }
        let mut start = new(&self.below);
        if start.is_null() {
            // What lies idle may be in the way.
            self.with(|blocks| self.make_room(blocks, 0));
            start = new(&self.below);
        }
        if !start.is_null() {
            ask_for_huge_pages(start, bytes);
            self.with(|blocks| blocks.used_bytes += class.size());
        }
        (start, false)
    }

    /// Frees what lies idle beyond some bytes, since sizes that are not asked for any more would
    /// stay for ever.
    fn make_room(&self, blocks: &mut Blocks, most: usize) {
        for class in Class::all().rev() {
            while blocks.idle_bytes > most
                && let Some(start) = blocks.take(class)
            {
                blocks.used_bytes -= class.size();
                // SAFETY: it came from there, by this layout, and nobody has it.
                unsafe { self.below.dealloc(start.as_ptr(), class.layout()) };
            }
        }
    }
}

/// Asks the kernel for huge pages where a block lies, before anything is written there. A processor
/// has few addresses of pages at hand, and weights and activations are more than that many small
/// pages; many systems give huge ones only to who asks. The last one would be of memory, too, that
/// nobody has asked for, and stays as it is.
fn ask_for_huge_pages(start: *mut u8, bytes: usize) {
    #[cfg(target_os = "linux")]
    {
        use rustix::mm::{Advice, madvise};
        let before = start.addr() % HUGE_PAGE;
        let bytes = (before + bytes) / HUGE_PAGE * HUGE_PAGE;
        // SAFETY: it changes the contents of no page, whoever has it. It is advice, and where there
        // are none, or some memory before the block is nobody's, all is as before.
        let _ = unsafe { madvise(start.wrapping_sub(before).cast(), bytes, Advice::LinuxHugepage) };
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (start, bytes);
}

// SAFETY: a block comes from the allocator below, with at least the size and the alignment that are
// asked for, or from whoever handed it in; one that is idle is in one list, once.
unsafe impl<A: GlobalAlloc> GlobalAlloc for Allocator<A> {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        match Class::of(layout) {
            Some(class) => {
                let new = |below: &A| {
                    // SAFETY: a size that is not zero.
                    unsafe { below.alloc(class.layout()) }
                };
                self.block(class, layout.size(), new).0
            }
            // SAFETY: of the caller.
            None => unsafe { self.below.alloc(layout) },
        }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        let Some(class) = Class::of(layout) else {
            // SAFETY: of the caller.
            return unsafe { self.below.alloc_zeroed(layout) };
        };
        let new = |below: &A| {
            // SAFETY: a size that is not zero.
            unsafe { below.alloc_zeroed(class.layout()) }
        };
        let (start, is_used) = self.block(class, layout.size(), new);
        if is_used {
            // SAFETY: it is at least as large.
            unsafe { start.write_bytes(0, layout.size()) };
        }
        start
    }

    unsafe fn dealloc(&self, start: *mut u8, layout: Layout) {
        match (Class::of(layout), NonNull::new(start)) {
            (Some(class), Some(start)) if FORGETTING.load(Ordering::Relaxed) == 0 => {
                self.with(|blocks| blocks.put(class, start));
            }
            (Some(class), _) => {
                self.with(|blocks| blocks.used_bytes -= class.size());
                // SAFETY: of the caller; it came from there, by this layout.
                unsafe { self.below.dealloc(start, class.layout()) }
            }
            // SAFETY: of the caller; it came from there.
            (None, _) => unsafe { self.below.dealloc(start, layout) },
        }
    }

    unsafe fn realloc(&self, start: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: of the caller, whose size is valid with the alignment.
        let new = unsafe { Layout::from_size_align_unchecked(size, layout.align()) };
        match (Class::of(layout), Class::of(new)) {
            // SAFETY: of the caller; both are the allocator's below.
            (None, None) => unsafe { self.below.realloc(start, layout, size) },
            (old_class, new_class) if old_class == new_class => start,
            // SAFETY: both blocks are there, for as many bytes.
            _ => unsafe {
                let moved = self.alloc(new);
                if !moved.is_null() {
                    moved.copy_from_nonoverlapping(start, layout.size().min(size));
                    self.dealloc(start, layout);
                }
                moved
            },
        }
    }
}
