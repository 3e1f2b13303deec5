// Threads that help with a call, and leave the caller nothing to wait for where they do not come.
//
// Whoever works on a call walks through the same steps. A step's pieces go to whoever takes them first, and nobody goes
// on before all are done. A helper that wakes late finds the first steps done; one that never comes is not missed.
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

// Where a call stands: the step (upper half) and how many of its pieces are taken, and how many of them are done.
struct Progress {
    alignas(64) std::atomic<uint64_t> taken{0};
    alignas(64) std::atomic<int> done{0};
    std::atomic<int> asleep{0};
    std::mutex lock;
    std::condition_variable wake;

    // Everything between is seen by who finds the step gone by. Either it is found so before falling asleep, or the
    // sleeper is found here: no order of the two misses both.
    void advance(uint64_t step) {
        done.store(0, std::memory_order_relaxed);
        taken.store(step << 32);
        if (!asleep.load()) return;
        std::lock_guard<std::mutex> hold(lock);
        wake.notify_all();
    }

    // Another's piece takes long only where its thread is not running: then sleep, and leave it the processor.
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

// One that works on a call; without `progress` it does so alone. `size`: how many there may be.
class Member {
  public:
    Member() = default;
    Member(Progress& progress, int size) : progress_(&progress), size_(size) {}
    int size() const { return size_; }

    // Every member calls it with the same number, in the same order. What the pieces wrote is seen by all afterwards.
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

    // Only where `here`.
    ~Crew() {
        {
            std::lock_guard<std::mutex> hold(lock_);
            closing_ = true;
        }
        wake_.notify_all();
        for (auto& thread : threads_) thread.join();
    }

    // The child of a fork has none of its parent's threads, and what they waited on can neither be used nor destroyed.
    bool here() const { return process_ == getpid(); }

    // `work` here and on as many as `helpers` other threads; returns when all have left. It may throw before its first
    // step, and is then done by the others; what it throws here comes out.
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

    // A machine that refuses a thread (a limit on processes or memory) has the caller work with those there are.
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
            } catch (const std::bad_alloc&) {  // No room for this one: the others do it.
            }
            hold.lock();
            job->inside.fetch_sub(1);  // Under the lock: from here on the job may be gone.
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
