// Threads that compute one call together. The call is divided into phases, and those into pieces that threads take.
//
// A phase ends when its pieces are done, not when all threads are there, and a call likewise: a thread that the system
// has taken the core from holds up the others only if it has a piece. So what runs beside on the same cores, the HTTP
// side above all, costs its own time and no more. For the same reason threads wait without spinning for long.
#pragma once
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <immintrin.h>
#include <memory>
#include <mutex>
#include <sched.h>
#include <thread>
#include <vector>

#include "kernels.h"

namespace ams {

constexpr int kSpins = 2048;      // pauses before a thread that waits for a piece lets others have its core
constexpr int kIdleSpins = 4096;  // pauses before a thread without a call sleeps: the next one often comes at once

struct alignas(64) Phase {
    std::atomic<int64_t> next{0};
    alignas(64) std::atomic<int64_t> done{0};
};

// What one thread knows of the call that it takes part in.
class Member {
  public:
    // `seconds` by part are told where they are wanted. Each phase of the call has one of `phases`.
    Member(Phase *phases, int number, int count, double *seconds)
        : number(number), count(count), phase_(phases), seconds_(seconds) {
        if (seconds_) last_ = now();
    }
    const int number, count;

    // The next phase, whose time counts as that of `part`: each(0) to each(pieces - 1), by whichever thread. What a
    // thread that comes late reads, to find that all pieces are taken, belongs to the call's own memory.
    template <class Each>
    void share(int part, int64_t pieces, const Each &each) {
        Phase &phase = *phase_++;
        for (int64_t piece; (piece = phase.next.fetch_add(1, std::memory_order_relaxed)) < pieces;) {
            each(piece);
            phase.done.fetch_add(1, std::memory_order_release);
        }
        told(part);
        for (int spins = 0; phase.done.load(std::memory_order_acquire) < pieces; ++spins) {
            if (spins < kSpins) _mm_pause();
            else sched_yield();
        }
        told(AMS_WAITING);
    }

  private:
    void told(int part) {
        if (!seconds_) return;
        const double at = now();
        seconds_[part] += at - last_;
        last_ = at;
    }
    static double now() {
        return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
    }
    Phase *phase_;
    double *seconds_;
    double last_ = 0;
};

using Work = std::function<void(Member &)>;

// The threads beside the caller's. It is made with the first call and stays.
class Team {
  public:
    // Call `work` in `count` threads, the calling one among them; until all its pieces are done. Others may still be on
    // their way through it then, and keep what `work` has copied alive.
    void run(int64_t phases, int count, double *seconds, Work work) {
        const auto call = std::make_shared<Call>(phases, count, std::move(work));
        if (count > 1) {
            {
                const std::lock_guard<std::mutex> locked(mutex_);
                while ((int)threads_.size() < count - 1) {
                    const int number = (int)threads_.size() + 1;
                    threads_.emplace_back([this, number] { serve(number); });
                }
                current_ = call;
                generation_.fetch_add(1, std::memory_order_release);
            }
            wake_.notify_all();
        }
        Member member(call->phases.get(), 0, count, seconds);
        call->work(member);
    }

  private:
    struct Call {
        Call(int64_t phases, int count, Work work) : phases(new Phase[phases]), count(count), work(std::move(work)) {}
        const std::unique_ptr<Phase[]> phases;
        const int count;
        const Work work;
    };

    void serve(int number) {
        int64_t seen = 0;
        for (;;) {
            for (int spins = 0; spins < kIdleSpins && generation_.load(std::memory_order_acquire) == seen; ++spins) _mm_pause();
            std::shared_ptr<Call> call;
            {
                std::unique_lock<std::mutex> locked(mutex_);
                wake_.wait(locked, [&] { return generation_.load(std::memory_order_relaxed) != seen; });
                seen = generation_.load(std::memory_order_relaxed);
                call = current_;
            }
            if (number < call->count) {
                Member member(call->phases.get(), number, call->count, nullptr);
                call->work(member);
            }
        }
    }

    std::mutex mutex_;
    std::condition_variable wake_;
    std::vector<std::thread> threads_;
    std::shared_ptr<Call> current_;
    std::atomic<int64_t> generation_{0};
};

}  // namespace ams
