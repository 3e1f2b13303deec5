// Threads that help with a call; the caller never waits for a thread that does not start.
//
// All threads of a call go through the same steps. The pieces of a step go to whichever thread takes them first, and no
// thread continues before all are done. A helper that wakes late finds the first steps done; one that never starts is
// not needed.
#pragma once
#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <functional>
#include <mutex>
#include <new>
#include <thread>
#include <vector>

#include <unistd.h>

#if defined(__x86_64__)
#define PAUSE() __builtin_ia32_pause()
#else
#define PAUSE() ((void)0)
#endif

constexpr int SPINS = 4000;  // About a hundred microseconds: more than a piece of a product takes.

// The progress of a call: the step (upper half) with the number of its pieces that are taken, and the number done.
struct Progress {
    alignas(64) std::atomic<uint64_t> taken{0};
    alignas(64) std::atomic<int> done{0};
    std::atomic<int> asleep{0};
    std::mutex lock;
    std::condition_variable wake;

    // A thread that sees the next step sees all that was written before. It either sees the step before it sleeps, or is
    // counted as asleep here: no order of the two loses the wake-up.
    void advance(uint64_t step) {
        done.store(0, std::memory_order_relaxed);
        taken.store(step << 32);
        if (!asleep.load()) return;
        std::lock_guard<std::mutex> hold(lock);
        wake.notify_all();
    }

    // A piece takes long only if its thread is not running: then sleep, and leave it the processor.
    void await(uint64_t step) {
        for (int spins = 0; spins < SPINS; spins++) {
            if (taken.load(std::memory_order_acquire) >> 32 != step) return;
            PAUSE();
        }
        asleep.fetch_add(1);
        {
            std::unique_lock<std::mutex> hold(lock);
            wake.wait(hold, [&] { return taken.load() >> 32 != step; });
        }
        asleep.fetch_sub(1);
    }
};

// A thread that works on a call; without `progress` it works alone. `size`: the largest number of them.
class Member {
  public:
    Member() = default;
    Member(Progress& progress, int size) : progress_(&progress), size_(size) {}
    int size() const { return size_; }

    // All members call it with the same number of pieces, in the same order, and then see what the pieces wrote.
    template <class Piece>
    void share(int pieces, const Piece& piece) {
        if (!progress_) {
            for (int i = 0; i < pieces; i++) piece(i);
            return;
        }
        if (pieces == 0) return;
        const uint64_t step = step_++;
        for (uint64_t seen = progress_->taken.load(std::memory_order_acquire);;) {
            if (seen >> 32 != step || (int)(uint32_t)seen >= pieces) break;
            if (!progress_->taken.compare_exchange_weak(seen, seen + 1, std::memory_order_acquire)) continue;
            piece((int)(uint32_t)seen);
            if (progress_->done.fetch_add(1, std::memory_order_acq_rel) + 1 == pieces)
                return progress_->advance(step + 1);
            seen = progress_->taken.load(std::memory_order_acquire);
        }
        progress_->await(step);
    }

  private:
    Progress* progress_ = nullptr;
    int size_ = 1;
    uint64_t step_ = 0;
};

class Crew {
  public:
    Crew() : process_(getpid()) {}

    // Call it only if `here`.
    ~Crew() {
        {
            std::lock_guard<std::mutex> hold(lock_);
            closing_ = true;
        }
        wake_.notify_all();
        for (auto& thread : threads_) thread.join();
    }

    // A forked child has none of its parent's threads, and what they wait on can neither be used nor destroyed.
    bool here() const { return process_ == getpid(); }

    // Call `work` here and on up to `helpers` other threads; return when all have finished. It may throw before its first
    // step, and the others then do the work; an exception of this thread is rethrown.
    void run(int helpers, const std::function<void(Member&)>& work) {
        Member alone;
        if (helpers < 1) return work(alone);
        Job job{work, helpers};
        {
            std::lock_guard<std::mutex> hold(lock_);
            hire(helpers);
            jobs_.push_back(&job);
        }
        if (helpers == 1) wake_.notify_one();
        else wake_.notify_all();
        std::exception_ptr failed;
        try {
            Member member(job.progress, helpers + 1);
            work(member);
        } catch (...) {
            failed = std::current_exception();
        }
        {
            std::lock_guard<std::mutex> hold(lock_);
            jobs_.erase(std::find(jobs_.begin(), jobs_.end(), &job));
        }
        for (int spins = 0; spins < SPINS && job.inside.load(std::memory_order_relaxed); spins++) PAUSE();
        {
            std::unique_lock<std::mutex> hold(lock_);
            left_.wait(hold, [&] { return job.inside.load() == 0; });
        }
        if (failed) std::rethrow_exception(failed);
    }

  private:
    struct Job {
        const std::function<void(Member&)>& work;
        const int helpers;
        int places = helpers;  // Under the lock.
        std::atomic<int> inside{0};
        Progress progress{};
    };

    // If the machine refuses a thread (a limit on processes or memory), the existing ones do the work.
    void hire(int count) {
        try {
            while ((int)threads_.size() < count) threads_.emplace_back([this] { serve(); });
        } catch (const std::exception&) {
        }
    }

    Job* open() const {
        for (Job* job : jobs_)
            if (job->places) return job;
        return nullptr;
    }

    void serve() {
        std::unique_lock<std::mutex> hold(lock_);
        for (;;) {
            wake_.wait(hold, [this] { return closing_ || open(); });
            if (closing_) return;
            Job* const job = open();
            job->places--;
            job->inside.fetch_add(1);
            hold.unlock();
            try {
                Member member(job->progress, job->helpers + 1);
                job->work(member);
            } catch (const std::bad_alloc&) {  // No memory for this thread: the others do the work.
            }
            hold.lock();
            job->inside.fetch_sub(1);  // Under the lock: after this the job may no longer exist.
            left_.notify_all();
        }
    }

    const pid_t process_;
    std::mutex lock_;
    std::condition_variable wake_, left_;
    std::vector<std::thread> threads_;
    std::vector<Job*> jobs_;
    bool closing_ = false;
};
