// Loads the library named by argv[1], uses it with the database argv[2], unloads it, and tells whatever it changed in
// the process that it was a guest of. Says nothing if that is nothing.
#include <dirent.h>
#include <dlfcn.h>
#include <sys/stat.h>
#include <unistd.h>

#include <clocale>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <string>

#include "tokenjoule.h"

extern char **environ;

static std::map<std::string, std::string> state_of_the_process() {
  std::map<std::string, std::string> state;
  for (int signal = 1; signal < NSIG; ++signal) {
    struct sigaction action;
    if (sigaction(signal, nullptr, &action) != 0) continue;  // one that the C library keeps for itself
    state["handler of signal " + std::to_string(signal)] =
        std::to_string(reinterpret_cast<std::uintptr_t>(action.sa_handler)) + " " + std::to_string(action.sa_flags);
  }
  sigset_t blocked;
  sigprocmask(SIG_SETMASK, nullptr, &blocked);
  for (int signal = 1; signal < NSIG; ++signal)
    state["blocked signals"] += sigismember(&blocked, signal) == 1 ? '1' : '0';
  stack_t stack;
  sigaltstack(nullptr, &stack);
  state["signal stack"] = std::to_string(stack.ss_flags) + " " + std::to_string(stack.ss_size);
  const mode_t mask = umask(0);
  umask(mask);
  state["umask"] = std::to_string(mask);
  state["locale"] = setlocale(LC_ALL, nullptr);
  char folder[4096];
  state["folder"] = getcwd(folder, sizeof folder) != nullptr ? folder : "?";
  for (char **variable = environ; *variable != nullptr; ++variable) state["environment"] += std::string(*variable) + '\n';
  for (const char *list : {"/proc/self/fd", "/proc/self/task"}) {
    int entries = 0;
    if (DIR *directory = opendir(list)) {
      while (readdir(directory) != nullptr) ++entries;
      closedir(directory);
    }
    state[std::string("entries of ") + list] = std::to_string(entries);
  }
  return state;
}

static void expect(bool holds, const char *what) {
  if (holds) return;
  std::printf("%s\n", what);
  std::exit(1);
}

static std::int32_t generate(void *, const tj_generate_request *, tj_call *, tj_generate_result *) { return 0; }

#define FUNCTION(name) const auto name = reinterpret_cast<decltype(&::name)>(dlsym(library, #name))

static void use(void *library, const char *database) {
  FUNCTION(tj_version);
  FUNCTION(tj_abi_version);
  FUNCTION(tj_store_open);
  FUNCTION(tj_store_subscribe);
  FUNCTION(tj_store_close);
  FUNCTION(tj_bus_subscribe);
  FUNCTION(tj_bus_unsubscribe);
  FUNCTION(tj_instrumented_generate);
  FUNCTION(tj_aggregate);
  FUNCTION(tj_aggregated_stats_free);
  FUNCTION(tj_record);

  expect(std::strcmp(tj_version(), TJ_VERSION) == 0, "tj_version is not TJ_VERSION");
  expect(tj_abi_version() == TJ_ABI_VERSION, "tj_abi_version is not TJ_ABI_VERSION");

  tj_store *store = nullptr;
  expect(tj_store_open(database, nullptr, &store, nullptr) == TJ_OK, "tj_store_open failed");
  expect(tj_store_subscribe(store, nullptr) == TJ_OK, "tj_store_subscribe failed");
  std::uint64_t subscription = 0;
  const auto ignore = [](const tj_event *, void *) {};
  expect(tj_bus_subscribe(TJ_EVENT_MASK_ALL, ignore, nullptr, nullptr, &subscription, nullptr) == TJ_OK, "subscribe");

  tj_engine engine = TJ_ENGINE_INIT;
  engine.generate = generate;
  tj_generate_request request = TJ_GENERATE_REQUEST_INIT;
  request.model = "m";
  tj_generate_result result = TJ_GENERATE_RESULT_INIT;
  expect(tj_instrumented_generate(&engine, &request, &result, nullptr) == TJ_OK, "tj_instrumented_generate failed");

  // What is refused is not talked about either.
  tj_telemetry_record bad = TJ_TELEMETRY_RECORD_INIT;
  expect(tj_record(store, &bad, nullptr) == TJ_ERR_INVALID_ARGUMENT, "tj_record took a record without a model");
  tj_store *nowhere = nullptr;
  expect(tj_store_open("/proc/nowhere/telemetry.db", nullptr, &nowhere, nullptr) == TJ_ERR_IO, "a store in /proc");

  tj_aggregated_stats stats = TJ_AGGREGATED_STATS_INIT;
  expect(tj_aggregate(store, nullptr, &stats, nullptr) == TJ_OK && stats.total_calls == 1, "tj_aggregate");
  tj_aggregated_stats_free(&stats);
  expect(tj_bus_unsubscribe(subscription, nullptr) == TJ_OK, "tj_bus_unsubscribe failed");
  expect(tj_store_close(store, nullptr) == TJ_OK, "tj_store_close failed");
}

int main(int, char **argv) {
  std::setlocale(LC_ALL, "C");
  const auto before = state_of_the_process();
  void *library = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL);
  expect(library != nullptr, "dlopen failed");
  expect(state_of_the_process() == before, "loading changed something");
  use(library, argv[2]);
  expect(dlclose(library) == 0, "dlclose failed");

  const auto after = state_of_the_process();
  for (const auto &[what, was] : before)
    if (after.at(what) != was) std::printf("%s: was %s, is %s\n", what.c_str(), was.c_str(), after.at(what).c_str());
  return 0;
}
