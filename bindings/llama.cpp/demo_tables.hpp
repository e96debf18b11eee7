// demo_tables.hpp: the demo's output, in at most 100 columns: the answers as they stream in, and the tables at the end.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "tokenjoule.h"

namespace demo {

// One finished call: what the bus published, copied, since an event's memory is gone when its callback returns.
struct finished_call {
  std::string name, model, finish_reason, error_type;
  std::uint64_t prompt_tokens, cached_tokens, prompt_tokens_evaluated, completion_tokens;
  double latency_seconds, ttft, median_itl_ms, p95_itl_ms, throughput_tok_per_sec, energy_joules;
  std::uint32_t outcome;
  bool warmup;

  explicit finished_call(const tj_telemetry_record &record)
      : name(text(record.request_id)), model(text(record.model_id)), finish_reason(text(record.finish_reason)),
        error_type(text(record.error_type)), prompt_tokens(record.prompt_tokens),
        cached_tokens(record.cached_tokens), prompt_tokens_evaluated(record.prompt_tokens_evaluated),
        completion_tokens(record.completion_tokens), latency_seconds(record.latency_seconds), ttft(record.ttft),
        median_itl_ms(record.median_itl_ms), p95_itl_ms(record.p95_itl_ms),
        throughput_tok_per_sec(record.throughput_tok_per_sec), energy_joules(record.energy_joules),
        outcome(record.outcome),
        warmup(record.is_warmup != 0) {}

  // "ok (stop)", "cancelled", "error (context_overflow)"
  std::string ending() const;

  static const char *text(const char *string) { return string != nullptr ? string : ""; }
};

inline const char *outcome_name(std::uint32_t outcome) {
  switch (outcome) {
    case TJ_OUTCOME_OK: return "ok";
    case TJ_OUTCOME_ERROR: return "error";
    case TJ_OUTCOME_CANCELLED: return "cancelled";
    case TJ_OUTCOME_ABANDONED: return "abandoned";
    case TJ_OUTCOME_INTERRUPTED: return "interrupted";
    default: return "?";
  }
}

inline std::string finished_call::ending() const {
  const std::string result = outcome_name(outcome), &why = error_type.empty() ? finish_reason : error_type;
  return why.empty() || why == result ? result : result + " (" + why + ")";
}

// ---- numbers --------------------------------------------------------------------------------------------------------

// Three digits that matter; "-" for what was not measured, which is not zero.
inline std::string number(double value) {
  if (!(value > 0)) return "-";
  char buffer[32];
  const int decimals = value >= 99.95 ? 0 : value >= 9.995 ? 1 : value >= 0.0995 ? 2 : 3;
  std::snprintf(buffer, sizeof buffer, "%.*f", decimals, value);
  return buffer;
}

inline std::string shortened(std::string name) { return name.size() > 24 ? name.substr(0, 21) + "..." : name; }

inline std::string count(std::uint64_t value) { return value == TJ_UNKNOWN ? "-" : std::to_string(value); }

// ---- text -----------------------------------------------------------------------------------------------------------

// Prints an answer while it comes in: wrapped, white space made one space, at most `lines` lines. Pieces are bytes: a
// character may be cut between two of them, and a byte that belongs to none is shown as '?'.
class answer {
 public:
  answer(const char *indent, std::size_t width, int lines) : indent_(indent), width_(width), lines_(lines) {}

  void put(std::string_view piece) {
    for (const char byte : piece) {
      const auto code = static_cast<unsigned char>(byte);
      if ((code & 0xC0) == 0x80) {
        if (missing_ == 0) { character("?"); continue; }
        partial_ += byte;
        if (--missing_ == 0) flush(partial_);
        continue;
      }
      if (missing_ > 0) { missing_ = 0; character("?"); }  // the character before was cut short
      partial_ = byte;
      if (code < 0x80) flush(code > 0x20 && code != 0x7F ? partial_ : " ");
      else if (code >= 0xC2 && code <= 0xF4) missing_ = code < 0xE0 ? 1 : code < 0xF0 ? 2 : 3;
      else character("?");
    }
    std::fflush(stdout);
  }

  void end() {
    if (missing_ > 0) character("?");
    word();
    std::puts(column_ == 0 ? "(nothing)" : "");
  }

 private:
  void flush(const std::string &text) { text == " " ? word() : character(text); }

  void character(const std::string &text) {
    word_ += text;
    if (++word_width_ >= width_) word();
  }

  void word() {
    if (word_.empty() || full_) return;
    if (column_ > 0 && column_ + 1 + word_width_ > width_) {
      if (--lines_ == 0) {
        std::fputs(" ...", stdout);
        full_ = true;
        return;
      }
      std::printf("\n%s", indent_);
      column_ = 0;
    }
    std::printf("%s%s", column_ > 0 ? " " : "", word_.c_str());
    column_ += word_width_ + (column_ > 0 ? 1 : 0);
    word_.clear();
    word_width_ = 0;
  }

  const char *indent_;
  std::size_t width_;
  int lines_;
  std::string partial_, word_;
  std::size_t word_width_ = 0, column_ = 0;
  int missing_ = 0;
  bool full_ = false;
};

// ---- tables ---------------------------------------------------------------------------------------------------------

// Columns as wide as what is in them, numbers to the right.
class table {
 public:
  // The first `names` columns are text.
  table(std::string title, std::size_t names, std::vector<std::string> header)
      : title_(std::move(title)), names_(names), rows_{std::move(header)} {}

  // Written above the columns first to last.
  void group(std::size_t first, std::size_t last, std::string name) {
    groups_.push_back({first, last, std::move(name)});
  }
  void row(std::vector<std::string> cells) { rows_.push_back(std::move(cells)); }

  void print() const {
    std::vector<std::size_t> width(rows_.front().size(), 0);
    for (const auto &cells : rows_)
      for (std::size_t i = 0; i < cells.size(); ++i) width[i] = std::max(width[i], columns(cells[i]));
    std::size_t total = 2 * (width.size() - 1);
    for (const std::size_t w : width) total += w;

    std::printf("\n%s\n", title_.c_str());
    if (!groups_.empty()) {
      std::string line(total, ' ');
      for (const auto &group : groups_) {
        std::size_t from = 0, to = 0;
        for (std::size_t i = 0; i <= group.last; ++i) {
          if (i == group.first) from = to;
          to += width[i] + 2;
        }
        const std::string name = " " + group.name + " ";
        line.replace(from, to - 2 - from, to - 2 - from, '-');
        line.replace(from + (to - 2 - from - name.size()) / 2, name.size(), name);
      }
      line.erase(line.find_last_not_of(' ') + 1);
      std::printf("%s\n", line.c_str());
    }
    for (std::size_t r = 0; r < rows_.size(); ++r) {
      std::string line;
      for (std::size_t i = 0; i < rows_[r].size(); ++i) {
        const std::string padding(width[i] - columns(rows_[r][i]), ' ');
        line += (i > 0 ? "  " : "") + (i < names_ ? rows_[r][i] + padding : padding + rows_[r][i]);
      }
      line.erase(line.find_last_not_of(' ') + 1);
      std::printf("%s\n", line.c_str());
      if (r == 0) std::printf("%s\n", std::string(total, '-').c_str());
    }
  }

 private:
  struct heading { std::size_t first, last; std::string name; };

  static std::size_t columns(std::string_view text) {  // characters, not bytes
    std::size_t n = 0;
    for (const char byte : text) n += (static_cast<unsigned char>(byte) & 0xC0) != 0x80;
    return n;
  }

  std::string title_;
  std::size_t names_;
  std::vector<std::vector<std::string>> rows_;
  std::vector<heading> groups_;
};

inline void print_calls(const std::vector<finished_call> &calls) {
  table out("CALLS: tokens, times in milliseconds, tokens per second, joules", 2,
            {"call", "outcome", "prompt", "cached", "output", "TTFT", "p50", "p95", "latency", "t/s", "J"});
  out.group(2, 4, "tokens");
  out.group(6, 7, "ITL");
  for (const auto &call : calls)
    out.row({call.name, call.ending(), count(call.prompt_tokens), count(call.cached_tokens),
             count(call.completion_tokens), number(call.ttft * 1e3), number(call.median_itl_ms),
             number(call.p95_itl_ms), number(call.latency_seconds * 1e3), number(call.throughput_tok_per_sec),
             number(call.energy_joules)});
  out.print();
}

inline void print_source(const tj_energy_source &source) {
  std::printf("%-9s", source.kind);
  answer shown("         ", 88, 10);
  if (source.is_available)
    shown.put(std::string(source.name) + ": read (" + source.method + ")");
  else
    shown.put((*source.name ? std::string(source.name) + ": " : "") + "not read: " + source.reason);
  shown.end();
}

// tj_model_stats and tj_engine_stats are the same but for the name; `name` says which field that is.
template <typename Stats>
void print_stats(const char *title, const char *Stats::*name, const Stats *stats, std::size_t length) {
  table tokens(std::string(title) + ": calls and tokens", 1,
               {"", "calls", "errors", "cancelled", "prompt", "cached", "evaluated", "output", "tok/s", "joules"});
  table times(std::string(title) + ": times in milliseconds, over all calls (ITL: over all tokens)", 1,
              {"", "p50", "p95", "p99", "p50", "p95", "p99", "p50", "p95", "p99"});
  times.group(1, 3, "latency");
  times.group(4, 6, "TTFT");
  times.group(7, 9, "ITL");
  for (std::size_t i = 0; i < length; ++i) {
    const Stats &s = stats[i];
    const std::string label = shortened(s.*name);
    tokens.row({label, count(s.call_count), count(s.error_count), count(s.cancelled_count), count(s.prompt_tokens),
                count(s.cached_tokens), count(s.prompt_tokens_evaluated), count(s.completion_tokens),
                number(s.avg_throughput_tok_per_sec), number(s.total_energy_joules)});
    times.row({label, number(s.latency.p50 * 1e3), number(s.latency.p95 * 1e3), number(s.latency.p99 * 1e3),
               number(s.ttft.p50 * 1e3), number(s.ttft.p95 * 1e3), number(s.ttft.p99 * 1e3), number(s.itl_ms.p50),
               number(s.itl_ms.p95), number(s.itl_ms.p99)});
  }
  tokens.print();
  times.print();
}

}  // namespace demo
