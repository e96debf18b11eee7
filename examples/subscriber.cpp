// subscriber.cpp: the event bus from C++.
//
//   c++ -std=c++17 -pthread subscriber.cpp -o subscriber $(pkg-config --cflags --libs tokenjoule) && ./subscriber
//
// A lambda as a subscriber, the program's own events, a subscriber that ends itself, and a thread that polls a queue.
#include <cstdint>
#include <cstdio>
#include <exception>
#include <map>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <tokenjoule.h>

namespace {

void check(tj_status status, const tj_error &error) {
  if (status != TJ_OK) throw std::runtime_error(std::string(tj_status_name(status)) + ": " + error.message);
}

// Calls `callback`, anything that takes a `const tj_event &`, for every event in `mask` until it goes out of scope.
class subscription {
 public:
  template <typename Callback>
  subscription(std::uint64_t mask, Callback callback) {
    tj_error error;
    check(tj_bus_subscribe(mask, call<Callback>, new Callback(std::move(callback)), drop<Callback>, &id_, &error),
          error);
  }
  ~subscription() { tj_bus_unsubscribe(id_, nullptr); }  // afterwards the callback is neither running nor there
  subscription(const subscription &) = delete;
  subscription &operator=(const subscription &) = delete;

 private:
  template <typename Callback>
  static void call(const tj_event *event, void *user_data) {
    try {
      (*static_cast<Callback *>(user_data))(*event);
    } catch (...) {  // nothing may be thrown through the library
      std::fputs("a subscriber threw\n", stderr);
    }
  }
  template <typename Callback>
  static void drop(void *user_data) { delete static_cast<Callback *>(user_data); }  // once, even if subscribing failed

  std::uint64_t id_ = 0;
};

// Polls every event of the bus on a thread of its own, and counts them by name.
class watcher {
 public:
  watcher() {
    tj_error error;
    check(tj_bus_queue_open(TJ_EVENT_MASK_ALL, 1024, &queue_, &error), error);
    thread_ = std::thread([this] { run(); });
  }
  ~watcher() {
    stop();
    tj_bus_queue_free(queue_);
  }
  watcher(const watcher &) = delete;
  watcher &operator=(const watcher &) = delete;

  // No more events go in; those that are in are still counted.
  void stop() {
    tj_bus_queue_close(queue_, nullptr);
    if (thread_.joinable()) thread_.join();
  }
  const std::map<std::string, int> &counts() const { return counts_; }
  std::uint64_t lost() const { return lost_; }

 private:
  void run() {
    tj_polled_event polled = TJ_POLLED_EVENT_INIT;
    while (tj_bus_poll(queue_, UINT32_MAX, &polled, nullptr) == TJ_OK) {  // TJ_ERR_CLOSED: closed, and empty
      ++counts_[polled.event->name];
      lost_ += polled.lost;
      tj_polled_event_free(&polled);
    }
  }

  tj_bus_queue *queue_ = nullptr;
  std::map<std::string, int> counts_;
  std::uint64_t lost_ = 0;
  std::thread thread_;
};

std::int32_t generate(void *, const tj_generate_request *request, tj_call *call, tj_generate_result *) {
  tj_call_prompt(call, 7, 0);
  for (std::uint32_t i = 0; i < request->max_tokens; ++i) tj_call_tokens(call, 1);
  return 0;
}

void generate_some(const char *model, int calls) {
  tj_engine engine = TJ_ENGINE_INIT;
  engine.engine_id = "example";
  engine.generate = generate;
  for (int i = 0; i < calls; ++i) {
    tj_generate_request request = TJ_GENERATE_REQUEST_INIT;
    request.model = model;
    request.max_tokens = 10;
    tj_generate_result result = TJ_GENERATE_RESULT_INIT;
    tj_error error;
    check(tj_instrumented_generate(&engine, &request, &result, &error), error);
  }
}

void run() {
  watcher everything;

  // Events come on the thread that publishes, here on two at once: what they share needs a lock.
  struct totals_by_model {
    std::mutex mutex;
    std::map<std::string, std::uint64_t> tokens;
  };
  const auto totals = std::make_shared<totals_by_model>();
  {
    const subscription records(TJ_EVENT_MASK(TJ_EVENT_TELEMETRY_RECORD), [totals](const tj_event &event) {
      const std::lock_guard<std::mutex> lock(totals->mutex);
      totals->tokens[event.model_id] += event.record->completion_tokens;  // the event is gone when this returns
    });
    const subscription loads(TJ_EVENT_MASK(TJ_EVENT_CUSTOM), [](const tj_event &event) {
      std::printf("%s %s\n", event.name, event.data_json);
    });
    std::uint64_t first_only = 0;
    tj_error error;
    const auto first_call = [](const tj_event *event, void *user_data) {
      std::printf("the first call is of the model %s\n", event->model_id);
      tj_bus_unsubscribe(*static_cast<std::uint64_t *>(user_data), nullptr);  // itself, from inside
    };
    check(tj_bus_subscribe(TJ_EVENT_MASK(TJ_EVENT_INFERENCE_START), first_call, &first_only, nullptr, &first_only,
                           &error),
          error);

    check(tj_bus_publish("model_loaded", R"({"model": "small", "seconds": 0.8})", &error), error);
    generate_some("small", 1);

    std::vector<std::thread> threads;
    threads.emplace_back(generate_some, "small", 3);
    threads.emplace_back(generate_some, "large", 2);
    for (auto &thread : threads) thread.join();

    std::printf("%ld hold the totals: run() and the subscriber\n", totals.use_count());
  }
  std::printf("%ld holds the totals: its subscription has ended, and the lambda is gone\n", totals.use_count());
  for (const auto &[model, tokens] : totals->tokens)
    std::printf("%s: %llu tokens\n", model.c_str(), static_cast<unsigned long long>(tokens));

  everything.stop();
  for (const auto &[name, count] : everything.counts()) std::printf("polled %d of %s\n", count, name.c_str());
  std::printf("lost %llu\n", static_cast<unsigned long long>(everything.lost()));
}

}  // namespace

int main() {
  try {
    run();
    return 0;
  } catch (const std::exception &problem) {
    std::fprintf(stderr, "%s\n", problem.what());
    return 1;
  }
}
