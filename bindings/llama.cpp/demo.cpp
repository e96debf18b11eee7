// demo.cpp: a small chat program on llama.cpp whose every call TokenJoule records.
//
//   demo --model FILE.gguf --database FILE.db [--name MODEL_ID] [--threads 1] [--context 2048] [--max-tokens 48]
//        [--powercap DIR] [--check]
//
// Read ask() and run_calls() first: that is what a program does. The rest is set-up, tables, and --check, which counts
// every call's tokens a second time, from llama.cpp itself, and compares. --powercap: other processors' energy counters
// than those of this machine.
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <exception>
#include <future>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include <unistd.h>

#include "demo_check.hpp"
#include "demo_tables.hpp"
#include "tokenjoule_llama.hpp"

namespace {

using demo::finished_call;
using tokenjoule::llama_adapter;

constexpr const char *system_prompt =
    "You are the assistant of a small museum of computing. You answer visitors' questions about computers, energy and "
    "language models in two or three short sentences, in plain words, without lists and without headings. If you do "
    "not know the answer, say so and suggest what the visitor could ask the guide instead.";

struct arguments {
  std::string model, database, name, powercap;
  std::int32_t threads = 1;
  std::uint32_t context = 2048, max_tokens = 48;
  bool check = false;
};

[[noreturn]] void usage(const char *problem) {
  std::fprintf(stderr,
               "demo: %s\n"
               "usage: demo --model FILE.gguf --database FILE.db [--name MODEL_ID] [--threads N] [--context N]\n"
               "            [--max-tokens N] [--powercap DIR] [--check]\n",
               problem);
  std::exit(2);
}

arguments parse(int argc, char **argv) {
  arguments parsed;
  for (int i = 1; i < argc; ++i) {
    const std::string option = argv[i];
    if (option == "--check") {
      parsed.check = true;
      continue;
    }
    if (++i == argc) usage((option + " needs a value").c_str());
    const auto at_least = [&](unsigned long least) {
      char *end = nullptr;
      const unsigned long value = std::strtoul(argv[i], &end, 10);
      if (*argv[i] < '0' || *argv[i] > '9' || *end != '\0' || value < least || value > 1000000)
        usage((option + " must be a number from " + std::to_string(least) + " to 1000000").c_str());
      return static_cast<std::uint32_t>(value);
    };
    if (option == "--model") parsed.model = argv[i];
    else if (option == "--database") parsed.database = argv[i];
    else if (option == "--name") parsed.name = argv[i];
    else if (option == "--powercap") parsed.powercap = argv[i];
    else if (option == "--threads") parsed.threads = static_cast<std::int32_t>(at_least(1));
    else if (option == "--context") parsed.context = at_least(1024);  // the longest conversation fits
    else if (option == "--max-tokens") parsed.max_tokens = at_least(2);
    else usage(("unknown option " + option).c_str());
  }
  if (parsed.model.empty()) usage("--model is missing");
  if (parsed.database.empty()) usage("--database is missing");
  if (parsed.name.empty()) {  // the file's name without folder and .gguf
    parsed.name = parsed.model.substr(parsed.model.find_last_of('/') + 1);
    if (parsed.name.size() > 5 && parsed.name.compare(parsed.name.size() - 5, 5, ".gguf") == 0)
      parsed.name.erase(parsed.name.size() - 5);
  }
  return parsed;
}

void require(tj_status status, const tj_error &error) {
  if (status != TJ_OK) throw std::runtime_error(std::string(tj_status_name(status)) + ": " + error.message);
}

// What hears of finished calls: prints one line each and keeps a copy for the tables.
struct listener {
  std::vector<finished_call> finished;
  demo::answer *streaming = nullptr;  // the answer being printed

  // The bus calls this once per finished call, on the thread that generated, before the call's energy is known. The
  // event's memory is gone afterwards.
  static void on_end(const tj_event *event, void *user_data) {
    auto &self = *static_cast<listener *>(user_data);
    self.finished.emplace_back(*event->record);
    const finished_call &call = self.finished.back();
    if (self.streaming != nullptr) self.streaming->end();
    std::printf("%-9s%s: %s, %s + %s tokens, %s cached, TTFT %s ms, latency %s ms\n", "recorded", call.name.c_str(),
                call.ending().c_str(), demo::count(call.prompt_tokens).c_str(),
                demo::count(call.completion_tokens).c_str(), demo::count(call.cached_tokens).c_str(),
                demo::number(call.ttft * 1e3).c_str(), demo::number(call.latency_seconds * 1e3).c_str());
  }
};

// ---- the calls ------------------------------------------------------------------------------------------------------

class chat {
 public:
  chat(llama_context *context, const arguments &arguments, std::string batch, listener &heard)
      : adapter_(context), engine_(adapter_.engine()), witness_(context), arguments_(arguments),
        batch_(std::move(batch)), heard_(heard) {}

  void run_calls();
  const std::vector<demo::engine_counts> &counted() const { return counted_; }

 private:
  using turns = std::vector<std::pair<const char *, std::string>>;  // role, content
  struct settings {
    double temperature = 0;
    std::uint32_t max_tokens = 0;
    bool warmup = false;
  };

  std::string ask(const char *name, const turns &conversation, settings how);

  llama_adapter adapter_;
  tj_engine engine_;
  demo::witness witness_;
  const arguments &arguments_;
  std::string batch_;
  listener &heard_;
  std::vector<demo::engine_counts> counted_;
};

void chat::run_calls() {
  const settings normal{0, arguments_.max_tokens, false};

  // The first call pays for page faults and caches; the flag keeps it out of the statistics.
  adapter_.options().ignore_eog = true;
  ask("warm-up", {{"user", "Hello!"}}, {0, 8, true});
  adapter_.options().ignore_eog = false;

  const turns museum{{"system", system_prompt}};
  turns conversation = museum;
  conversation.emplace_back("user", "What is a joule?");
  ask("first turn", conversation, normal);

  // The same system prompt again: its tokens are still in the KV cache, only the question is decoded.
  conversation = museum;
  conversation.emplace_back("user", "What is a token in a language model?");
  const std::string answer = ask("same system", conversation, normal);

  // A follow-up turn repeats the whole conversation so far, the model's own answer included.
  conversation.emplace_back("assistant", answer);
  conversation.emplace_back("user", "And why does a long prompt take longer?");
  ask("follow-up", conversation, normal);

  adapter_.options().seed = 42;
  conversation = museum;
  conversation.emplace_back("user", "Describe your museum to a child.");
  ask("sampled", conversation, {0.8, arguments_.max_tokens, false});

  // Somebody closes the window while the answer streams in: another thread cancels. The callback waits for it only so
  // that the demo's numbers do not depend on how fast the threads are.
  std::promise<void> seen_enough, cancelled;
  std::thread visitor([&, wish = seen_enough.get_future()]() mutable {
    wish.wait();
    adapter_.cancel();
    cancelled.set_value();
  });
  int pieces = 0;
  adapter_.options().ignore_eog = true;  // a model that stopped by itself before that would spoil the example
  adapter_.options().on_piece = [&](std::string_view) {
    if (++pieces == 5) {
      seen_enough.set_value();
      cancelled.get_future().wait();
    }
    return true;
  };
  conversation = museum;
  conversation.emplace_back("user", "Tell me the whole history of computing.");
  ask("cancelled", conversation, {0, std::max<std::uint32_t>(arguments_.max_tokens, 64), false});
  if (pieces < 5) seen_enough.set_value();
  visitor.join();
  adapter_.options().on_piece = nullptr;
  adapter_.options().ignore_eog = false;

  // A prompt that the context cannot hold is refused by the engine, and recorded as an error.
  std::string report = "Please summarise this report:";
  for (std::uint32_t i = 0; i < arguments_.context; ++i) report += " energy";
  ask("too long", {{"user", report}}, normal);
}

std::string chat::ask(const char *name, const turns &conversation, settings how) {
  std::vector<tj_message> messages;
  for (const auto &[role, content] : conversation) messages.push_back({role, content.c_str()});

  tj_generate_request request = TJ_GENERATE_REQUEST_INIT;
  request.model = arguments_.name.c_str();
  request.messages = messages.data();
  request.message_count = messages.size();
  request.temperature = how.temperature;
  request.max_tokens = how.max_tokens;
  request.operation = "chat";
  request.request_id = name;  // a server would put its own id here
  request.batch_id = batch_.c_str();
  request.is_warmup = how.warmup ? 1 : 0;

  // The answer is printed as it streams in; whatever else our caller does with the pieces comes after that.
  const std::string &question = conversation.back().second;
  std::printf("\n%-9s%s%s\n%-9s", "visitor", question.substr(0, 80).c_str(), question.size() > 80 ? " ..." : "",
              "model");
  demo::answer shown("         ", 88, 3);
  heard_.streaming = &shown;
  const auto next = adapter_.options().on_piece;
  adapter_.options().on_piece = [&](std::string_view piece) {
    shown.put(piece);
    return !next || next(piece);
  };

  tj_generate_result result = TJ_GENERATE_RESULT_INIT;
  tj_error error{};
  witness_.call_begins(messages);
  const tj_status status = tj_instrumented_generate(&engine_, &request, &result, &error);
  counted_.push_back(witness_.call_ended());

  adapter_.options().on_piece = next;
  heard_.streaming = nullptr;
  if (heard_.finished.size() != counted_.size()) throw std::runtime_error("the bus published no end of a call");
  if (status == TJ_ERR_ENGINE) std::printf("%-9s%s: %s\n", "status", tj_status_name(status), error.message);
  else require(status, error);  // the library's own failure, not the model's
  return std::string(adapter_.content());
}

// ---- set-up ---------------------------------------------------------------------------------------------------------

// Says where joules are read on this machine, and of what is not there, why.
void print_sources() {
  tj_energy_source_list list = TJ_ENERGY_SOURCE_LIST_INIT;
  tj_error error{};
  require(tj_energy_sources(nullptr, &list, &error), error);
  std::printf("\nENERGY\n");
  for (std::size_t i = 0; i < list.source_count; ++i) demo::print_source(list.sources[i]);
  tj_energy_source_list_free(&list);
}

void report(tj_store *store, const std::string &batch, const std::string &database) {
  tj_query query = TJ_QUERY_INIT;
  query.batch_id = batch.c_str();
  tj_error error{};
  std::vector<finished_call> finished;
  const tj_record_fn add = [](const tj_telemetry_record *record, std::int64_t, void *calls) -> std::int32_t {
    static_cast<std::vector<finished_call> *>(calls)->emplace_back(*record);
    return 0;  // go on
  };
  require(tj_records_each(store, &query, add, &finished, &error), error);
  print_sources();
  demo::print_calls(finished);

  query.exclude_warmup = 1;
  tj_aggregated_stats stats = TJ_AGGREGATED_STATS_INIT;
  require(tj_aggregate(store, &query, &stats, &error), error);
  demo::print_stats("MODELS", &tj_model_stats::model_id, stats.per_model, stats.per_model_count);
  demo::print_stats("ENGINES", &tj_engine_stats::engine, stats.per_engine, stats.per_engine_count);
  tj_aggregated_stats_free(&stats);

  std::uint64_t records = 0;
  require(tj_store_count(store, &records, &error), error);
  std::printf("\nMODELS and ENGINES leave the warm-up call out. %llu records, of this run and others, are in\n%s\n",
              static_cast<unsigned long long>(records), database.c_str());
}

void quiet_log(ggml_log_level level, const char *text, void *) {
  if (level == GGML_LOG_LEVEL_ERROR) std::fputs(text, stderr);
}

template <auto Free>
struct freed_by {
  template <typename T>
  void operator()(T *pointer) const { Free(pointer); }
};

int run(const arguments &arguments) {
  llama_log_set(quiet_log, nullptr);
  llama_backend_init();
  const std::unique_ptr<llama_model, freed_by<llama_model_free>> model(
      llama_model_load_from_file(arguments.model.c_str(), llama_model_default_params()));
  if (!model) throw std::runtime_error("cannot load the model " + arguments.model);
  llama_context_params params = llama_context_default_params();
  params.n_ctx = arguments.context;
  params.n_threads = params.n_threads_batch = arguments.threads;
  const std::unique_ptr<llama_context, freed_by<llama_free>> context(
      llama_init_from_model(model.get(), params));
  if (!context) throw std::runtime_error("cannot make a context of " + std::to_string(arguments.context) + " tokens");

  // The store first, so that a record is safe before our own callback hears of it.
  tj_error error{};
  tj_store *opened = nullptr;
  require(tj_store_open(arguments.database.c_str(), nullptr, &opened, &error), error);
  const auto close = [](tj_store *store) { tj_store_close(store, nullptr); };
  const std::unique_ptr<tj_store, decltype(close)> store(opened, close);
  require(tj_store_subscribe(store.get(), &error), error);
  listener heard;
  std::uint64_t subscription = 0;
  require(tj_bus_subscribe(TJ_EVENT_MASK(TJ_EVENT_INFERENCE_END), listener::on_end, &heard, nullptr,
                           &subscription, &error),
          error);

  // From now on each call's record gets its joules, where the machine has a counter that may be read.
  tj_energy_options energy = TJ_ENERGY_OPTIONS_INIT;
  if (!arguments.powercap.empty()) energy.powercap_root = arguments.powercap.c_str();
  require(tj_energy_start(&energy, &error), error);

  std::printf("TokenJoule %s: %s on llama.cpp, %d thread%s, context %u\n", tj_version(), arguments.name.c_str(),
              arguments.threads, arguments.threads == 1 ? "" : "s", llama_n_ctx(context.get()));
  // This run's name in the database, which may hold earlier ones.
  const std::string batch = "demo-" + std::to_string(std::time(nullptr)) + "-" + std::to_string(getpid());
  chat chat(context.get(), arguments, batch, heard);
  chat.run_calls();

  require(tj_bus_unsubscribe(subscription, &error), error);
  require(tj_store_flush(store.get(), &error), error);  // the joules of the last call, too
  report(store.get(), batch, arguments.database);
  require(tj_energy_stop(&error), error);
  return arguments.check ? demo::check(store.get(), batch, heard.finished, chat.counted()) : 0;
}

}  // namespace

int main(int argc, char **argv) {
  const arguments arguments = parse(argc, argv);
  try {
    return run(arguments);
  } catch (const std::exception &problem) {
    std::fflush(stdout);
    std::fprintf(stderr, "demo: %s\n", problem.what());
    return 1;
  }
}
