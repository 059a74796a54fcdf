// Threads of one call: the same work function in each, phases divided by counters, a barrier between phases.
#pragma once
#include <atomic>
#include <chrono>
#include <cstdint>
#include <immintrin.h>
#include <sched.h>

#include "kernels.h"

namespace ams {

constexpr int kSpins = 4096;  // pauses before a waiting thread lets others have its core

struct alignas(64) Counter {
    std::atomic<int64_t> next{0};
};

// A ring of counters: one that is used again has been set to zero by the phase half a ring before, behind a barrier.
constexpr int kRing = 8;

class Team {
  public:
    Counter counters[kRing];

    void wait(int size, int &sense) {
        if (size == 1) return;
        sense = !sense;
        if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == size) {
            arrived_.store(0, std::memory_order_relaxed);
            sense_.store(sense, std::memory_order_release);
            return;
        }
        for (int spins = 0; sense_.load(std::memory_order_acquire) != sense; ++spins) {
            if (spins < kSpins) _mm_pause();
            else sched_yield();
        }
    }

  private:
    alignas(64) std::atomic<int> arrived_{0};
    alignas(64) std::atomic<int> sense_{0};
};

// What one thread knows of the call that it takes part in.
class Member {
  public:
    // `count` threads take part, this one has the `number`. `seconds` by part are told by the first.
    Member(Team &team, int number, int count, double *seconds)
        : number(number), count(count), team_(team), seconds_(number == 0 ? seconds : nullptr) {
        if (seconds_) last_ = now();
    }
    const int number, count;

    // Until every thread is done with the phase; its time counts as that of `part`.
    void barrier(int part) {
        told(part);
        team_.wait(count, sense_);
        told(AMS_WAITING);
        if (number == 0) team_.counters[(phase_ + kRing / 2) % kRing].next.store(0, std::memory_order_relaxed);
        ++phase_;
    }
    // The next of `count` pieces of this phase that nobody has; false if none is left.
    bool take(int64_t count, int64_t &piece) {
        piece = team_.counters[phase_ % kRing].next.fetch_add(1, std::memory_order_relaxed);
        return piece < count;
    }
    void told(int part) {
        if (!seconds_) return;
        const double at = now();
        seconds_[part] += at - last_;
        last_ = at;
    }

  private:
    static double now() {
        return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
    }
    Team &team_;
    double *seconds_;
    double last_ = 0;
    int sense_ = 0;
    int64_t phase_ = 0;
};

}  // namespace ams
