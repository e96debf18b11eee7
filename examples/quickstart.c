/* quickstart.c: an engine whose every call is recorded, and what its calls cost in all.
 *
 *   cc quickstart.c -o quickstart $(pkg-config --cflags --libs tokenjoule) && ./quickstart telemetry.db
 */
#define _POSIX_C_SOURCE 200809L /* nanosleep */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include <tokenjoule.h>

static void check(tj_status status, const tj_error *error) {
  if (status == TJ_OK) return;
  fprintf(stderr, "%s: %s\n", tj_status_name(status), error->message);
  exit(EXIT_FAILURE);
}

/* Stands in for a model: 2 ms later there is one more token. NULL: that was all. */
static const char *decode(uint32_t at) {
  static const char *const answer[] = {"A ", "joule ", "is ", "one ", "watt ", "for ", "one ", "second."};
  nanosleep(&(struct timespec){.tv_nsec = 2000000}, NULL);
  return at < sizeof answer / sizeof *answer ? answer[at] : NULL;
}

/* The engine: streams its answer, and tells the call of each token when it exists. */
static int32_t generate(void *engine_data, const tj_generate_request *request, tj_call *call,
                        tj_generate_result *result) {
  FILE *out = engine_data;
  fprintf(out, "%s: ", request->model);
  tj_call_prompt(call, 5, 0); /* the prompt's tokens, and how many of them a cache held */
  result->finish_reason = "length";
  for (uint32_t i = 0; i < request->max_tokens; i++) {
    const char *token = decode(i);
    if (token == NULL) {
      result->finish_reason = "stop";
      break;
    }
    tj_call_tokens(call, 1); /* one more: the first gives the time to first token */
    fputs(token, out);
    if (tj_call_cancelled(call)) return 1; /* somebody called tj_call_cancel: any code but 0 */
  }
  fputc('\n', out);
  return 0;
}

int main(int argc, char **argv) {
  tj_error error;
  tj_store *store = NULL;
  check(tj_store_open(argc > 1 ? argv[1] : ":memory:", NULL, &store, &error), &error);
  check(tj_store_subscribe(store, &error), &error); /* from now on every call is recorded */

  tj_engine engine = TJ_ENGINE_INIT;
  engine.engine_id = "quickstart";
  engine.generate = generate;
  engine.engine_data = stdout;
  const tj_message question = {"user", "What is a joule?"};
  for (int i = 0; i < 3; i++) {
    tj_generate_request request = TJ_GENERATE_REQUEST_INIT;
    request.model = i < 2 ? "small" : "large";
    request.messages = &question;
    request.message_count = 1;
    request.max_tokens = i == 1 ? 4 : 64;
    tj_generate_result result = TJ_GENERATE_RESULT_INIT;
    check(tj_instrumented_generate(&engine, &request, &result, &error), &error);
  }

  tj_aggregated_stats stats = TJ_AGGREGATED_STATS_INIT;
  check(tj_aggregate(store, NULL, &stats, &error), &error);
  printf("\nmodel  calls  prompt  output  TTFT p50, ms  ITL p95, ms  latency p95, ms  tokens/s\n");
  for (size_t i = 0; i < stats.per_model_count; i++) {
    const tj_model_stats *model = &stats.per_model[i];
    printf("%-5s  %5d  %6d  %6d  %12.2f  %11.2f  %15.2f  %8.1f\n", model->model_id, (int)model->call_count,
           (int)model->prompt_tokens, (int)model->completion_tokens, model->ttft.p50 * 1e3,
           model->itl_ms.p95, model->latency.p95 * 1e3, model->avg_throughput_tok_per_sec);
  }
  tj_aggregated_stats_free(&stats);
  check(tj_store_close(store, &error), &error);
  return 0;
}
