// The threads of a block, which take turns: one runs until it waits for others or ends. Every other
// block begins with its last thread, so that a barrier that is missing shows as another result.
//
// Each has a stack of its own, where it begins by ucontext, and after that goes on by the compiler's
// own longjmp, which is a few instructions, in this block and in those that follow.
#include "cuda_runtime.h"

#include <cstring>
#include <ucontext.h>

uint3 threadIdx, blockIdx, blockDim, gridDim;
constexpr unsigned int SHARED_MEMORY = 227 * 1024;
alignas(1024) unsigned char dynamic_shared_mem[SHARED_MEMORY];

namespace emulation {
namespace {

constexpr unsigned int MOST_THREADS = 1024;
// No power of two: the ends of all stacks would fall to the same lines of the processor's cache.
constexpr unsigned int STACK = 128 * 1024 + 13 * 64;

enum class State { Runs, WaitsForBlock, WaitsForWarp, Ended };

// Where a thread goes on, as __builtin_setjmp writes it down.
using Place = void* [5];

struct Thread {
    State state;
    uint3 index;
    // Whether its stack is in use.
    bool begun;
    Place place;
    alignas(16) unsigned char given[MOST_GIVEN];
};

Thread threads[MOST_THREADS];
alignas(64) unsigned char stacks[MOST_THREADS][STACK];
unsigned int count;
// Which of them comes first.
bool backwards;
// How many have had their turn, and whose it is.
unsigned int turn, current;
Place scheduler;

void (*kernel_call)(const void*, void**);
const void* kernel_function;
void** kernel_arguments;

// Not in the function that wrote the place down, as GCC asks.
[[noreturn]] __attribute__((noinline)) void jump(Place place) { __builtin_longjmp(place, 1); }

void begin();

// Lets the next thread go on that can, or the scheduler.
[[noreturn]] __attribute__((noinline)) void go_on() {
    while (turn < count) {
        current = backwards ? count - 1 - turn : turn;
        turn++;
        Thread& thread = threads[current];
        if (thread.state != State::Runs) {
            continue;
        }
        threadIdx = thread.index;
        if (thread.begun) {
            jump(thread.place);
        }
        thread.begun = true;
        ucontext_t context;
        getcontext(&context);
        context.uc_stack.ss_sp = stacks[current];
        context.uc_stack.ss_size = STACK;
        context.uc_link = nullptr;
        makecontext(&context, begin, 0);
        setcontext(&context);
    }
    jump(scheduler);
}

__attribute__((noinline)) void wait(State state) {
    threads[current].state = state;
    if (__builtin_setjmp(threads[current].place) == 0) {
        go_on();
    }
}

void begin() {
    for (;;) {
        kernel_call(kernel_function, kernel_arguments);
        wait(State::Ended);
    }
}

// Until all have ended or wait.
__attribute__((noinline)) void all_go_on() {
    turn = 0;
    if (__builtin_setjmp(scheduler) == 0) {
        go_on();
    }
}

// Lets threads go on that wait for these, if all that have not ended do.
bool release(unsigned int start, unsigned int end, State waiting) {
    bool any = false;
    for (unsigned int thread = start; thread < end; thread++) {
        const State state = threads[thread].state;
        if (state != waiting && state != State::Ended) {
            return false;
        }
        any |= state == waiting;
    }
    for (unsigned int thread = start; thread < end; thread++) {
        if (threads[thread].state == waiting) {
            threads[thread].state = State::Runs;
        }
    }
    return any;
}

// Whether a thread has written to where its stack ends.
bool overflown() {
    bool found = false;
    for (unsigned int thread = 0; thread < count; thread++) {
        found |= *reinterpret_cast<unsigned long long*>(stacks[thread]) != 0;
    }
    return found;
}

const char* run_block() {
    std::memset(dynamic_shared_mem, 0xff, SHARED_MEMORY);
    for (unsigned int thread = 0; thread < count; thread++) {
        const unsigned int x = thread % blockDim.x, rest = thread / blockDim.x;
        threads[thread].index = {x, rest % blockDim.y, rest / blockDim.y};
        threads[thread].state = State::Runs;
    }
    for (;;) {
        all_go_on();
        bool ended = true;
        for (unsigned int thread = 0; thread < count; thread++) {
            ended &= threads[thread].state == State::Ended;
        }
        if (ended) {
            return overflown() ? "a stack is too small for a thread" : nullptr;
        }
        bool released = release(0, count, State::WaitsForBlock);
        for (unsigned int start = 0; start < count; start += warpSize) {
            const unsigned int end = start + warpSize < count ? start + warpSize : count;
            released |= release(start, end, State::WaitsForWarp);
        }
        if (!released) {
            for (Thread& thread : threads) {
                thread.begun = false;
            }
            return "its threads wait for each other at different barriers";
        }
    }
}

}  // namespace

unsigned int lane() { return current % warpSize; }

void give(const void* given, unsigned int bytes) {
    std::memcpy(threads[current].given, given, bytes);
    __syncwarp();
}

const void* given_by(unsigned int lane) {
    return threads[current / warpSize * warpSize + lane].given;
}

const char* run(void (*call)(const void*, void**), const void* kernel, void** arguments,
                const uint3* grid, const uint3* block) {
    kernel_call = call;
    kernel_function = kernel;
    kernel_arguments = arguments;
    gridDim = *grid;
    blockDim = *block;
    count = block->x * block->y * block->z;
    if (count > MOST_THREADS) {
        return "a block has more than 1024 threads";
    }
    unsigned int number = 0;
    for (unsigned int z = 0; z < grid->z; z++) {
        for (unsigned int y = 0; y < grid->y; y++) {
            for (unsigned int x = 0; x < grid->x; x++) {
                blockIdx = {x, y, z};
                backwards = number++ % 2 == 1;
                const char* fault = run_block();
                if (fault != nullptr) {
                    return fault;
                }
            }
        }
    }
    return nullptr;
}

}  // namespace emulation

void __syncthreads() { emulation::wait(emulation::State::WaitsForBlock); }
void __syncwarp() { emulation::wait(emulation::State::WaitsForWarp); }
