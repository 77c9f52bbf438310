//! The allocator of the program, which is also that of these tests: blocks around the size from
//! which it keeps them.

use emberlm::backend::{Allocator, without_keeping};
use proptest::prelude::*;
use std::alloc::{GlobalAlloc, Layout, System};
use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

/// Of the smallest block that is kept, and some more.
const SIZES: [usize; 8] =
    [1, 4096, (1 << 18) - 1, 1 << 18, (1 << 18) + 1, 300_000, 1 << 20, (5 << 20) + 7];

fn fill(block: &mut [u8], seed: u8) {
    for (place, byte) in block.iter_mut().enumerate() {
        *byte = (place % 251) as u8 ^ seed;
    }
}

fn is_filled(block: &[u8], seed: u8) -> bool {
    block.iter().enumerate().all(|(place, byte)| *byte == (place % 251) as u8 ^ seed)
}

#[test]
fn zeros_are_zeros_where_something_else_was() {
    for size in SIZES {
        for _ in 0..3 {
            let mut block = vec![0u8; size];
            assert!(block.iter().all(|byte| *byte == 0), "{size} bytes");
            fill(&mut block, 3);
        }
    }
}

#[test]
fn large_blocks_begin_where_a_line_of_the_cache_does() {
    for size in SIZES.into_iter().filter(|size| *size >= 1 << 18) {
        let block = Vec::<u8>::with_capacity(size);
        assert_eq!(block.as_ptr().addr() % 64, 0, "{size} bytes");
    }
}

/// The kernel was asked for all of those that lie within a large block.
#[cfg(target_os = "linux")]
#[test]
fn large_blocks_lie_in_huge_pages() {
    const HUGE: usize = 2 << 20;
    if !std::path::Path::new("/sys/kernel/mm/transparent_hugepage").exists() {
        println!("skipped: this kernel has no huge pages");
        return;
    }
    // No other test asks for as many bytes, so that the block is a new one.
    let block = Vec::<u8>::with_capacity(77 << 20);
    let (start, end) = (block.as_ptr().addr(), block.as_ptr().addr() + block.capacity());
    let (first, last) = (start.next_multiple_of(HUGE), end / HUGE * HUGE);
    let advised = advised();
    for page in (first..last).step_by(HUGE) {
        assert!(advised.iter().any(|range| range.contains(&page)), "{page:x} of {start:x}");
    }
}

/// The memory of this process that the kernel was asked to have huge pages for.
#[cfg(target_os = "linux")]
fn advised() -> Vec<std::ops::Range<usize>> {
    let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
    let (mut range, mut advised) = (0..0, Vec::new());
    for line in maps.lines() {
        let mut words = line.split_whitespace();
        let Some(first) = words.next() else { continue };
        if let Some((from, to)) = first.split_once('-') {
            let place = |text: &str| usize::from_str_radix(text, 16).unwrap();
            range = place(from)..place(to);
        } else if first == "VmFlags:" && words.any(|flag| flag == "hg") {
            advised.push(range.clone());
        }
    }
    advised
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20))]
    /// Blocks of several threads come, grow, shrink and go, and none ever holds another's bytes.
    #[test]
    fn blocks_are_apart(
        plans in prop::collection::vec(
            prop::collection::vec((0..6usize, 0..SIZES.len(), any::<u8>()), 1..30),
            3,
        ),
    ) {
        thread::scope(|scope| {
            for plan in plans {
                scope.spawn(move || {
                    let mut held: [(Vec<u8>, u8); 6] = Default::default();
                    for (place, size, seed) in plan {
                        let (block, old) = &mut held[place];
                        assert!(is_filled(block, *old));
                        if seed % 3 == 0 {
                            *block = vec![0; SIZES[size]];
                        } else {
                            let kept = block.len().min(SIZES[size]);
                            block.resize(SIZES[size], 0);
                            block.shrink_to_fit();
                            assert!(is_filled(&block[..kept], *old));
                        }
                        fill(block, seed);
                        *old = seed;
                    }
                });
            }
        });
    }
}

/// An allocator that knows what it has given, and gives nothing when it is told to.
#[derive(Default)]
struct Recording {
    given: Mutex<HashMap<usize, Layout>>,
    times: AtomicUsize,
    is_empty: AtomicBool,
}

// SAFETY: the system's.
unsafe impl GlobalAlloc for Recording {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if self.is_empty.load(Ordering::Relaxed) {
            return std::ptr::null_mut();
        }
        self.times.fetch_add(1, Ordering::Relaxed);
        // SAFETY: of the caller.
        let start = unsafe { System.alloc(layout) };
        assert!(self.given.lock().unwrap().insert(start.addr(), layout).is_none());
        start
    }

    unsafe fn dealloc(&self, start: *mut u8, layout: Layout) {
        assert_eq!(self.given.lock().unwrap().remove(&start.addr()), Some(layout));
        // Blocks that come back make it able to give again.
        self.is_empty.store(false, Ordering::Relaxed);
        // SAFETY: of the caller.
        unsafe { System.dealloc(start, layout) }
    }
}

impl Recording {
    fn bytes(&self) -> usize {
        self.given.lock().unwrap().values().map(Layout::size).sum()
    }
}

const MEBIBYTE: usize = 1 << 20;

fn layout(size: usize) -> Layout {
    Layout::from_size_align(size, 4).unwrap()
}

/// Takes blocks of some sizes, and gives them all back.
fn come_and_go(allocator: &Allocator<Borrowed>, sizes: &[usize]) {
    let blocks: Vec<(*mut u8, usize)> = sizes
        .iter()
        // SAFETY: no size is zero.
        .map(|size| (unsafe { allocator.alloc(layout(*size)) }, *size))
        .collect();
    for (start, size) in blocks {
        assert!(!start.is_null());
        // SAFETY: from there, by this layout, once.
        unsafe { allocator.dealloc(start, layout(size)) };
    }
}

/// One that a test can look at while an [`Allocator`] has it.
struct Borrowed(&'static Recording);

// SAFETY: that of what it borrows.
unsafe impl GlobalAlloc for Borrowed {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: of the caller.
        unsafe { self.0.alloc(layout) }
    }

    unsafe fn dealloc(&self, start: *mut u8, layout: Layout) {
        // SAFETY: of the caller.
        unsafe { self.0.dealloc(start, layout) }
    }
}

#[test]
fn what_lies_idle_is_bounded_and_comes_back_as_it_was_given() {
    let below: &'static Recording = Box::leak(Box::default());
    let allocator = Allocator::new(Borrowed(below));
    // The same once more needs nothing new. (Another test may have all allocators forget for a
    // moment.)
    let needs_nothing = |_| {
        let same = || come_and_go(&allocator, &[MEBIBYTE, 3 * MEBIBYTE, 7 * MEBIBYTE + 5]);
        same();
        let before = below.times.load(Ordering::Relaxed);
        same();
        below.times.load(Ordering::Relaxed) == before
    };
    assert!((0..100).any(needs_nothing));
    // Of many sizes that are not asked for again, no more stays than may.
    for size in 10..80 {
        come_and_go(&allocator, &[size * MEBIBYTE / 4]);
    }
    let last = 80 * MEBIBYTE / 4;
    assert!(below.bytes() <= 64 * MEBIBYTE + 2 * last, "{} bytes stay", below.bytes());
    // When the allocator below has nothing left, what lies idle is given up for it.
    let below: &'static Recording = Box::leak(Box::default());
    let allocator = Allocator::new(Borrowed(below));
    come_and_go(&allocator, &[MEBIBYTE, 3 * MEBIBYTE, 7 * MEBIBYTE + 5]);
    below.is_empty.store(true, Ordering::Relaxed);
    // Where another test has had it forget them, nothing could come back.
    if !below.given.lock().unwrap().is_empty() {
        come_and_go(&allocator, &[200 * MEBIBYTE]);
        assert!(below.given.lock().unwrap().len() <= 1);
    }
    below.is_empty.store(false, Ordering::Relaxed);
    // What is not to be kept goes at once.
    let before = below.given.lock().unwrap().len();
    without_keeping(|| come_and_go(&allocator, &[60 * MEBIBYTE, MEBIBYTE, 9 * MEBIBYTE]));
    assert!(below.given.lock().unwrap().len() <= before);
}
