/*
 * What a call costs, by cases that were worked out by hand.
 */
#include "calls.h"

#include <pthread.h>
#include <sys/wait.h>

static tj_store *store;

static tj_cost cost_of(const tj_telemetry_record *record) {
  tj_cost cost = TJ_COST_INIT;
  CHECK_OK(tj_cost_estimate(record, &cost, &error));
  CHECK_EQ(cost.reserved, 0);
  return cost;
}

static uint64_t load(const char *prices_json, const char *version) {
  uint64_t count = 0;
  CHECK_OK(tj_cost_load_prices(prices_json, version, &count, &error));
  return count;
}

static void set_price(const char *model, double input, double output) {
  tj_price price = TJ_PRICE_INIT;
  price.model = model, price.input_usd_per_token = input, price.output_usd_per_token = output;
  CHECK_OK(tj_cost_set_price(&price, &error));
}

/* 1000 prompt tokens, 600 of them cached; 500 output tokens, 200 of them reasoning; 2 s; 3600 J. */
static tj_telemetry_record record_of(const char *model) {
  tj_telemetry_record record = call_of(model, "e", 0);
  record.prompt_tokens = 1000, record.cached_tokens = 600;
  record.completion_tokens = 500, record.reasoning_tokens = 200;
  record.latency_seconds = 2.0, record.energy_joules = 3600.0;
  return record;
}

static void check_cost(const tj_telemetry_record *record, uint32_t rule, double cost_usd, const char *price_table) {
  tj_cost cost = cost_of(record);
  CHECK_EQ(cost.rule, rule);
  CHECK_NEAR(cost.cost_usd, cost_usd, 1e-12);
  CHECK_STR(cost.price_table, price_table);
}

/* ---- Prices ---- */

static void a_price_is_per_token(void) {
  tj_price price = TJ_PRICE_INIT;
  tj_telemetry_record record = record_of("m");
  price.model = "m", price.version = "2026-02";
  price.input_usd_per_token = 2e-6, price.output_usd_per_token = 10e-6;
  CHECK_OK(tj_cost_set_price(&price, &error));
  check_cost(&record, TJ_COST_TABLE, 1000 * 2e-6 + 500 * 10e-6, "2026-02"); /* 0: as the others */
  price.cached_input_usd_per_token = 0.5e-6;
  CHECK_OK(tj_cost_set_price(&price, &error));
  check_cost(&record, TJ_COST_TABLE, 400 * 2e-6 + 600 * 0.5e-6 + 500 * 10e-6, "2026-02");
  price.reasoning_usd_per_token = 20e-6, price.version = NULL;
  CHECK_OK(tj_cost_set_price(&price, &error));
  check_cost(&record, TJ_COST_TABLE, 400 * 2e-6 + 600 * 0.5e-6 + 300 * 10e-6 + 200 * 20e-6, "");
  price.cached_input_usd_per_token = 0, price.cached_input_is_free = 1;
  CHECK_OK(tj_cost_set_price(&price, &error));
  check_cost(&record, TJ_COST_TABLE, 400 * 2e-6 + 300 * 10e-6 + 200 * 20e-6, "");

  record.cached_tokens = 5000, record.reasoning_tokens = 5000; /* a contradiction: no more than there are */
  check_cost(&record, TJ_COST_TABLE, 500 * 20e-6, "");
  record.cached_tokens = TJ_UNKNOWN, record.reasoning_tokens = TJ_UNKNOWN; /* ordinary ones */
  check_cost(&record, TJ_COST_TABLE, 1000 * 2e-6 + 500 * 10e-6, "");
  set_price("free", 0, 0);
  record = record_of("free");
  check_cost(&record, TJ_COST_TABLE, 0.0, "");
  tj_cost_clear();
  check_cost(&record, TJ_COST_UNKNOWN, NAN, "");
}

/* A part of a cost is no cost; and a model that is sold is not costed as if it ran here. */
static void what_is_not_counted_has_no_cost(void) {
  tj_local_cost local = TJ_LOCAL_COST_INIT;
  tj_telemetry_record record = record_of("m");
  local.hardware_usd_per_second = 1.0;
  CHECK_OK(tj_cost_set_local(&local, &error));
  set_price("m", 2e-6, 10e-6), set_price("free input", 0, 10e-6);
  record.prompt_tokens = TJ_UNKNOWN;
  check_cost(&record, TJ_COST_UNKNOWN, NAN, "");
  record.model_id = "free input";
  check_cost(&record, TJ_COST_TABLE, 500 * 10e-6, "");
  record.completion_tokens = TJ_UNKNOWN;
  check_cost(&record, TJ_COST_UNKNOWN, NAN, "");
  record.model_id = "m", record.prompt_tokens = 1000, record.completion_tokens = 0; /* 0 is a measurement */
  check_cost(&record, TJ_COST_TABLE, 1000 * 2e-6, "");
  record.model_id = "another";
  check_cost(&record, TJ_COST_LOCAL, 2.0, "");
  set_price("huge", 1e308, 1e308);
  record = record_of("huge");
  check_cost(&record, TJ_COST_UNKNOWN, NAN, ""); /* never infinite */
  tj_cost_clear();
}

static void a_price_is_found_by_model_then_by_engine_and_model(void) {
  tj_telemetry_record record = record_of("gpt");
  record.prompt_tokens = 1, record.cached_tokens = 0, record.completion_tokens = 0;
  CHECK_EQ(load("{\"e/gpt\": {\"input_cost_per_token\": 1}, \"gpt\": {\"input_cost_per_token\": 2,"
                " \"litellm_provider\": \"p\"}, \"p/taken\": {\"input_cost_per_token\": 3},"
                " \"taken\": {\"input_cost_per_token\": 4, \"provider\": \"p\"},"
                " \"q/named\": {\"input_cost_per_token\": 5, \"litellm_provider\": \"q\"}}", "t"), 5);
  check_cost(&record, TJ_COST_TABLE, 2, "t"); /* the model's name first */
  record.model_id = "p/gpt";
  check_cost(&record, TJ_COST_TABLE, 2, "t"); /* provider/model */
  record.model_id = "p/taken";
  check_cost(&record, TJ_COST_TABLE, 3, "t"); /* which is the name of another here */
  record.model_id = "taken";
  check_cost(&record, TJ_COST_TABLE, 4, "t");
  record.model_id = "named", record.engine = "q";
  check_cost(&record, TJ_COST_TABLE, 5, "t"); /* engine/model */
  record.model_id = "q/q/named";
  check_cost(&record, TJ_COST_UNKNOWN, NAN, "");
  record.model_id = "GPT", record.engine = "e"; /* case matters */
  check_cost(&record, TJ_COST_UNKNOWN, NAN, "");
  record.model_id = "gpt", record.engine = NULL;
  check_cost(&record, TJ_COST_TABLE, 2, "t");

  set_price("e/gpt", 7, 0); /* what was set comes before what was loaded */
  check_cost(&record, TJ_COST_TABLE, 2, "t");
  record.engine = "e";
  check_cost(&record, TJ_COST_TABLE, 7, "");
  set_price("gpt", 8, 0);
  check_cost(&record, TJ_COST_TABLE, 8, "");
  CHECK_EQ(load("{}", "u"), 0); /* loading takes the place of what was loaded, not of what was set */
  check_cost(&record, TJ_COST_TABLE, 8, "");
  record.model_id = "taken";
  check_cost(&record, TJ_COST_UNKNOWN, NAN, "");
  tj_cost_clear();
}

/* Entries as they are in LiteLLM's model_prices_and_context_window.json. */
static const char litellm[] =
    "{\n"
    "    \"sample_spec\": {\n"
    "        \"input_cost_per_token\": \"the price\",\n"
    "        \"litellm_provider\": \"one of https://docs.litellm.ai/docs/providers\",\n"
    "        \"max_tokens\": \"LEGACY parameter\",\n"
    "        \"search_context_cost_per_query\": {\"search_context_size_high\": 0.0}\n"
    "    },\n"
    "    \"1024-x-1024/dall-e-2\": {\n"
    "        \"input_cost_per_pixel\": 1.9e-08,\n"
    "        \"litellm_provider\": \"openai\",\n"
    "        \"mode\": \"image_generation\",\n"
    "        \"output_cost_per_pixel\": 0.0\n"
    "    },\n"
    "    \"amazon.nova-2-lite-v1:0\": {\n"
    "        \"cache_read_input_token_cost\": 7.5e-08,\n"
    "        \"input_cost_per_token\": 3e-07,\n"
    "        \"litellm_provider\": \"bedrock_converse\",\n"
    "        \"max_input_tokens\": 1000000,\n"
    "        \"mode\": \"chat\",\n"
    "        \"output_cost_per_token\": 2.5e-06,\n"
    "        \"supports_vision\": true\n"
    "    },\n"
    "    \"thinker\": {\n"
    "        \"input_cost_per_token\": 1e-06,\n"
    "        \"input_cost_per_token_above_200k_tokens\": 2e-06,\n"
    "        \"output_cost_per_token\": 4e-06,\n"
    "        \"output_cost_per_reasoning_token\": 8e-06,\n"
    "        \"supported_regions\": [\"global\", [[[\"us\"]]]]\n"
    "    },\n"
    "    \"embedder\": {\"input_cost_per_token\": 1e-07, \"cache_read_input_token_cost\": null},\n"
    "    \"cache for nothing\": {\"input_cost_per_token\": 1e-06, \"cache_read_input_token_cost\": 0.0},\n"
    "    \"half\": {\"output_cost_per_token\": 1e-06}\n"
    "}\n";

static void litellms_file_is_loaded_as_it_is(void) {
  tj_telemetry_record record = record_of("amazon.nova-2-lite-v1:0");
  CHECK_EQ(load(litellm, "litellm 1.80"), 5);
  check_cost(&record, TJ_COST_TABLE, 400 * 3e-7 + 600 * 7.5e-8 + 500 * 2.5e-6, "litellm 1.80");
  record.model_id = "bedrock_converse/amazon.nova-2-lite-v1:0";
  check_cost(&record, TJ_COST_TABLE, 400 * 3e-7 + 600 * 7.5e-8 + 500 * 2.5e-6, "litellm 1.80");
  record.model_id = "thinker";
  check_cost(&record, TJ_COST_TABLE, 1000 * 1e-6 + 300 * 4e-6 + 200 * 8e-6, "litellm 1.80");
  record.model_id = "1024-x-1024/dall-e-2"; /* not sold by the token */
  check_cost(&record, TJ_COST_UNKNOWN, NAN, "");
  record.model_id = "sample_spec";
  check_cost(&record, TJ_COST_UNKNOWN, NAN, "");
  record.model_id = "embedder"; /* has no price of output: fine if there is none */
  check_cost(&record, TJ_COST_UNKNOWN, NAN, "");
  record.completion_tokens = TJ_UNKNOWN, record.reasoning_tokens = TJ_UNKNOWN;
  check_cost(&record, TJ_COST_TABLE, 1000 * 1e-7, "litellm 1.80");
  record.completion_tokens = 0;
  check_cost(&record, TJ_COST_TABLE, 1000 * 1e-7, "litellm 1.80");
  record.model_id = "cache for nothing";
  check_cost(&record, TJ_COST_TABLE, 400 * 1e-6, "litellm 1.80");
  record.model_id = "half";
  check_cost(&record, TJ_COST_UNKNOWN, NAN, "");
  tj_cost_clear();
}

static void prices_may_be_per_million_tokens(void) {
  tj_telemetry_record record = record_of("m");
  CHECK_EQ(load("{\"m\": {\"input_usd_per_million_tokens\": 2.5, \"cached_input_usd_per_million_tokens\": 1.25,"
                " \"output_usd_per_million_tokens\": 10, \"reasoning_usd_per_million_tokens\": 12,"
                " \"provider\": \"mine\"}}", NULL), 1);
  check_cost(&record, TJ_COST_TABLE, (400 * 2.5 + 600 * 1.25 + 300 * 10 + 200 * 12) / 1e6, "");
  record.model_id = "mine/m";
  check_cost(&record, TJ_COST_TABLE, (400 * 2.5 + 600 * 1.25 + 300 * 10 + 200 * 12) / 1e6, "");
  tj_cost_clear();
}

static void a_bad_table_names_the_fault_and_changes_nothing(void) {
  static const struct {
    const char *json, *model, *field;
  } bad[] = {
      {"", NULL, "prices_json"},
      {"[]", NULL, "prices_json"},
      {"{", NULL, "prices_json"},
      {"{} {}", NULL, "prices_json"},
      {"{\"x\": 1}", "x", "prices_json"},
      {"{\"good\": {}, \"x\": {\"input_cost_per_token\": -1e-9}}", "x", "input_cost_per_token"},
      {"{\"x\": {\"output_cost_per_token\": \"1e-6\"}}", "x", "output_cost_per_token"},
      {"{\"x\": {\"output_cost_per_token\": true}}", "x", "output_cost_per_token"},
      {"{\"x\": {\"cache_read_input_token_cost\": [1]}}", "x", "cache_read_input_token_cost"},
      {"{\"x\": {\"output_cost_per_reasoning_token\": 1e999}}", "x", "output_cost_per_reasoning_token"},
      {"{\"x\": {\"input_usd_per_million_tokens\": NaN}}", "x", "input_usd_per_million_tokens"},
      {"{\"x\": {\"input_cost_per_token\": Infinity}}", "x", "input_cost_per_token"},
      {"{\"x\": {\"input_cost_per_token\": -Infinity}}", "x", "input_cost_per_token"},
      {"{\"x\": {\"input_cost_per_token\": 1, \"input_usd_per_million_tokens\": 1}}", "x",
       "input_usd_per_million_tokens"},
      {"{\"x\": {\"litellm_provider\": 1}}", "x", "litellm_provider"},
      {"{\"\": {\"input_cost_per_token\": 1}}", NULL, "model"},
      {"{\"m\": {\"input_cost_per_token\": 5}, \"x\": {\"output_cost_per_token\": -1}}", "x", "output_cost_per_token"},
  };
  tj_telemetry_record record = record_of("m");
  char long_version[129];
  size_t i;
  CHECK_EQ(load("{\"m\": {\"input_cost_per_token\": 1, \"output_cost_per_token\": 1}}", "before"), 1);
  for (i = 0; i < sizeof bad / sizeof *bad; i++) {
    uint64_t count = 77;
    CHECK_FAILS(tj_cost_load_prices(bad[i].json, "after", &count, &error), TJ_ERR_INVALID_ARGUMENT, bad[i].field);
    CHECK(bad[i].model == NULL || check_names(error.message, bad[i].model));
    CHECK_EQ(count, 77);
    check_cost(&record, TJ_COST_TABLE, 1500, "before");
  }
  {
    uint64_t count = 77;
    memset(long_version, 'v', 128), long_version[128] = 0;
    CHECK_FAILS(tj_cost_load_prices("{}", long_version, &count, &error), TJ_ERR_INVALID_ARGUMENT, "version");
    check_cost(&record, TJ_COST_TABLE, 1500, "before");
    long_version[127] = 0; /* the longest that fits, and comes back whole */
    CHECK_EQ(load("{\"m\": {\"input_cost_per_token\": 1, \"output_cost_per_token\": 1}}", long_version), 1);
    check_cost(&record, TJ_COST_TABLE, 1500, long_version);
  }
  tj_cost_clear();
}

static void a_bad_price_names_the_field_and_the_model(void) {
  static const double impossible[] = {NAN, INFINITY, -INFINITY, -1e-300};
  static const struct {
    const char *name;
    size_t offset;
  } fields[] = {
#define PRICE(name) {#name, offsetof(tj_price, name)}
      PRICE(input_usd_per_token), PRICE(output_usd_per_token), PRICE(cached_input_usd_per_token),
      PRICE(reasoning_usd_per_token)};
  tj_telemetry_record record = record_of("m");
  const double *figure;
  size_t i;
  tj_price price = TJ_PRICE_INIT;
  tj_local_cost local = TJ_LOCAL_COST_INIT;
  char long_version[129];
  set_price("m", 1, 1);
  for (i = 0; i < sizeof fields / sizeof *fields; i++) {
    for (EACH(figure, impossible)) {
      tj_price bad = TJ_PRICE_INIT;
      bad.model = "m";
      memcpy((char *)&bad + fields[i].offset, figure, sizeof *figure);
      CHECK_FAILS(tj_cost_set_price(&bad, &error), TJ_ERR_INVALID_ARGUMENT, fields[i].name);
      CHECK(check_names(error.message, "m"));
    }
  }
  CHECK_FAILS(tj_cost_set_price(&price, &error), TJ_ERR_INVALID_ARGUMENT, "model");
  price.model = "m", price.cached_input_is_free = 1, price.cached_input_usd_per_token = 1;
  CHECK_FAILS(tj_cost_set_price(&price, &error), TJ_ERR_INVALID_ARGUMENT, "cached_input_is_free");
  price.cached_input_is_free = 0;
  memset(long_version, 'v', 128), long_version[128] = 0, price.version = long_version;
  CHECK_FAILS(tj_cost_set_price(&price, &error), TJ_ERR_INVALID_ARGUMENT, "version");
  for (EACH(figure, impossible)) {
    local.electricity_usd_per_kwh = *figure;
    CHECK_FAILS(tj_cost_set_local(&local, &error), TJ_ERR_INVALID_ARGUMENT, "electricity_usd_per_kwh");
    local.electricity_usd_per_kwh = 1, local.hardware_usd_per_second = *figure;
    CHECK_FAILS(tj_cost_set_local(&local, &error), TJ_ERR_INVALID_ARGUMENT, "hardware_usd_per_second");
    local.hardware_usd_per_second = 1, local.carbon_grams_per_kwh = *figure;
    CHECK_FAILS(tj_cost_set_local(&local, &error), TJ_ERR_INVALID_ARGUMENT, "carbon_grams_per_kwh");
    local.carbon_grams_per_kwh = 1;
  }
  check_cost(&record, TJ_COST_TABLE, 1500, "");
  record.model_id = "local";
  check_cost(&record, TJ_COST_UNKNOWN, NAN, "");
  tj_cost_clear();
}

/* ---- Local models, and what the engine reports ---- */

static void a_local_model_costs_electricity_and_hardware(void) {
  tj_local_cost local = TJ_LOCAL_COST_INIT;
  tj_telemetry_record record = record_of("m"); /* 2 s, 3600 J = 0.001 kWh */
  local.electricity_usd_per_kwh = 0.30;
  CHECK_OK(tj_cost_set_local(&local, &error));
  check_cost(&record, TJ_COST_LOCAL, 0.0003, "");
  CHECK_NUM(cost_of(&record).co2e_grams, NAN);
  local.hardware_usd_per_second = 0.0001, local.carbon_grams_per_kwh = 400;
  CHECK_OK(tj_cost_set_local(&local, &error));
  check_cost(&record, TJ_COST_LOCAL, 0.0003 + 0.0002, "");
  CHECK_NEAR(cost_of(&record).co2e_grams, 0.4, 1e-12);
  record.energy_joules = NAN;
  check_cost(&record, TJ_COST_UNKNOWN, NAN, "");
  CHECK_NUM(cost_of(&record).co2e_grams, NAN);
  record.energy_joules = 0; /* as unknown */
  check_cost(&record, TJ_COST_UNKNOWN, NAN, "");
  local.electricity_usd_per_kwh = 0;
  CHECK_OK(tj_cost_set_local(&local, &error));
  check_cost(&record, TJ_COST_LOCAL, 0.0002, ""); /* needs no energy */
  record.energy_joules = 3600, local.hardware_usd_per_second = 0;
  CHECK_OK(tj_cost_set_local(&local, &error));
  check_cost(&record, TJ_COST_UNKNOWN, NAN, ""); /* CO2 alone */
  CHECK_NEAR(cost_of(&record).co2e_grams, 0.4, 1e-12);
  set_price("m", 1, 1);
  check_cost(&record, TJ_COST_TABLE, 1500, "");
  CHECK_NEAR(cost_of(&record).co2e_grams, 0.4, 1e-12); /* whatever the cost comes from */
  tj_local_cost_init(&local);
  CHECK_OK(tj_cost_set_local(&local, &error));
  CHECK_NUM(cost_of(&record).co2e_grams, NAN);
  tj_cost_clear();
}

static void what_the_engine_reports_wins(void) {
  tj_telemetry_record record = record_of("m");
  record.cost_usd = 0.5;
  check_cost(&record, TJ_COST_REPORTED, 0.5, ""); /* also without rules */
  CHECK_EQ(load("{\"m\": {\"input_cost_per_token\": 1, \"output_cost_per_token\": 1}}", "t"), 1);
  check_cost(&record, TJ_COST_REPORTED, 0.5, "");
  record.cost_usd = 0; /* not given */
  check_cost(&record, TJ_COST_TABLE, 1500, "t");
  record.cost_usd = NAN;
  check_cost(&record, TJ_COST_TABLE, 1500, "t");
  tj_cost_clear();
}

/* ---- Calls ---- */

typedef struct seen {
  double cost_usd;
  char metadata[512];
} seen;

static int32_t see(const tj_telemetry_record *record, int64_t record_id, void *user_data) {
  seen *it = (seen *)user_data;
  (void)record_id;
  it->cost_usd = record->cost_usd;
  snprintf(it->metadata, sizeof it->metadata, "%s", record->metadata_json);
  return 0;
}

static seen last_recorded(void) {
  seen last = {-1, ""};
  tj_query query = TJ_QUERY_INIT;
  query.limit = 1;
  CHECK_OK(tj_records_recent(store, &query, see, &last, &error));
  return last;
}

static seen after_a_call(const char *model, double cost_usd, const char *metadata_json) {
  tj_generate_request request = TJ_GENERATE_REQUEST_INIT;
  tj_generate_result result = TJ_GENERATE_RESULT_INIT;
  tj_call *call = NULL;
  request.model = model;
  result.prompt_tokens = 100, result.completion_tokens = 10;
  result.cost_usd = cost_usd, result.metadata_json = metadata_json;
  CHECK_OK(tj_call_begin("e", &request, &call, &error));
  CHECK_OK(tj_call_end(call, TJ_OUTCOME_OK, &result, &error));
  tj_call_free(call);
  return last_recorded();
}

static void see_event(const tj_event *event, void *user_data) {
  double *cost = (double *)user_data;
  cost[event->kind == TJ_EVENT_INFERENCE_END ? 0 : 1] = event->record->cost_usd;
}

static void a_call_is_costed_when_it_ends(void) {
  double heard[2] = {0, 0};
  uint64_t subscription = 0;
  tj_local_cost local = TJ_LOCAL_COST_INIT;
  seen last = after_a_call("m", 0, "{\"b\":2}");
  CHECK_NUM(last.cost_usd, NAN), CHECK_STR(last.metadata, "{\"b\":2}"); /* no rules: nothing is added */
  last = after_a_call("m", 0.25, "{\"b\":2}");
  CHECK_NUM(last.cost_usd, 0.25), CHECK_STR(last.metadata, "{\"b\":2}");

  CHECK_EQ(load("{\"m\": {\"input_cost_per_token\": 0.5, \"output_cost_per_token\": 2}}", "t \"1\""), 1);
  CHECK_OK(tj_bus_subscribe(TJ_EVENT_MASK(TJ_EVENT_INFERENCE_END) | TJ_EVENT_MASK(TJ_EVENT_TELEMETRY_RECORD), see_event,
                            heard, NULL, &subscription, &error));
  last = after_a_call("m", 0, "{\"b\":2}");
  CHECK_NUM(last.cost_usd, 70.0), CHECK_NUM(heard[0], 70.0), CHECK_NUM(heard[1], 70.0);
  CHECK_STR(last.metadata, "{\"b\":2,\"tokenjoule.cost_rule\":\"table\",\"tokenjoule.price_table\":\"t \\\"1\\\"\"}");
  CHECK_OK(tj_bus_unsubscribe(subscription, &error));
  last = after_a_call("m", 0.25, NULL);
  CHECK_NUM(last.cost_usd, 0.25), CHECK_STR(last.metadata, "{\"tokenjoule.cost_rule\":\"reported\"}");
  last = after_a_call("another", 0, NULL);
  CHECK_NUM(last.cost_usd, NAN), CHECK_STR(last.metadata, "{}");

  local.hardware_usd_per_second = 1.0, local.carbon_grams_per_kwh = 100;
  CHECK_OK(tj_cost_set_local(&local, &error));
  last = after_a_call("another", 0, "{}");
  CHECK_BETWEEN(last.cost_usd, 1e-9, 60.0);
  CHECK_STR(last.metadata, "{\"tokenjoule.cost_rule\":\"local\"}"); /* no energy, no CO2 */
  tj_cost_clear();
  last = after_a_call("m", 0, NULL);
  CHECK_NUM(last.cost_usd, NAN), CHECK_STR(last.metadata, "{}");
}

static int32_t report_garbage(void *engine_data, const tj_generate_request *request, tj_call *call,
                              tj_generate_result *result) {
  (void)engine_data, (void)request;
  tj_call_prompt(call, 10, 0);
  tj_call_tokens(call, 1);
  result->cost_usd = -1;
  return 0;
}

/* A cost that cannot be counts as not given; both things are noted. */
static void a_reported_cost_that_cannot_be_is_not_one(void) {
  tj_engine engine = TJ_ENGINE_INIT;
  tj_generate_request request = TJ_GENERATE_REQUEST_INIT;
  tj_generate_result result = TJ_GENERATE_RESULT_INIT;
  seen last;
  engine.engine_id = "e", engine.generate = report_garbage, request.model = "m";
  set_price("m", 1, 1);
  CHECK_OK(tj_instrumented_generate(&engine, &request, &result, &error));
  last = last_recorded();
  CHECK_NUM(last.cost_usd, 11.0);
  CHECK_STR(last.metadata, "{\"tokenjoule.ignored\":[\"cost_usd\"],\"tokenjoule.cost_rule\":\"table\"}");
  tj_cost_clear();
}

/* tj_record stores what it is given. */
static void a_record_of_the_programs_own_is_left_alone(void) {
  tj_telemetry_record record = record_of("m");
  seen last;
  set_price("m", 1, 1);
  record.cost_usd = NAN, record.timestamp = 4e9;
  add(store, &record);
  last = last_recorded();
  CHECK_NUM(last.cost_usd, NAN), CHECK_STR(last.metadata, "{}");
  tj_cost_clear();
}

/* ---- Threads and processes ---- */

static int is_over;

static void *estimate(void *user_data) {
  (void)user_data;
  while (!__atomic_load_n(&is_over, __ATOMIC_ACQUIRE)) {
    tj_telemetry_record record = record_of("m");
    tj_cost cost = cost_of(&record);
    CHECK_EQ(cost.rule, TJ_COST_TABLE);
    /* The figure and the version are of the same table. */
    CHECK_NUM(cost.cost_usd, strcmp(cost.price_table, "one") == 0 ? 1500 : 3000);
  }
  return NULL;
}

static void prices_may_change_at_any_time(void) {
  pthread_t threads[4];
  int i, rounds = check_is_quick ? 10 : 500;
  is_over = 0;
  load("{\"m\": {\"input_cost_per_token\": 1, \"output_cost_per_token\": 1}}", "one");
  for (i = 0; i < 4; i++) {
    CHECK(pthread_create(&threads[i], NULL, estimate, NULL) == 0);
  }
  for (i = 0; i < rounds; i++) {
    load("{\"m\": {\"input_cost_per_token\": 2, \"output_cost_per_token\": 2}}", "two");
    load("{\"m\": {\"input_cost_per_token\": 1, \"output_cost_per_token\": 1}}", "one");
    set_price("other", i, i);
  }
  __atomic_store_n(&is_over, 1, __ATOMIC_RELEASE);
  for (i = 0; i < 4; i++) {
    CHECK(pthread_join(threads[i], NULL) == 0);
  }
  tj_cost_clear();
}

/* "A forked child begins with none", and what it sets is its own. */
static void a_child_has_rules_of_its_own(void) {
  tj_telemetry_record record = record_of("m");
  int status = -1;
  pid_t child;
  set_price("m", 1, 1);
  fflush(NULL);
  child = fork();
  CHECK(child >= 0);
  if (child == 0) {
    alarm(10);
    check_failures = 0;
    check_cost(&record, TJ_COST_UNKNOWN, NAN, "");
    set_price("m", 2, 2);
    check_cost(&record, TJ_COST_TABLE, 3000, "");
    _exit(check_failures == 0 ? 0 : 1);
  }
  CHECK(waitpid(child, &status, 0) == child);
  CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
  check_cost(&record, TJ_COST_TABLE, 1500, "");
  tj_cost_clear();
}

int main(int argc, char **argv) {
  static const check_test tests[] = {
      {"a price is per token", a_price_is_per_token},
      {"what is not counted has no cost", what_is_not_counted_has_no_cost},
      {"a price is found by model, then by engine and model", a_price_is_found_by_model_then_by_engine_and_model},
      {"LiteLLM's file is loaded as it is", litellms_file_is_loaded_as_it_is},
      {"prices may be per million tokens", prices_may_be_per_million_tokens},
      {"a bad table names the fault and changes nothing", a_bad_table_names_the_fault_and_changes_nothing},
      {"a bad price names the field and the model", a_bad_price_names_the_field_and_the_model},
      {"a local model costs electricity and hardware", a_local_model_costs_electricity_and_hardware},
      {"what the engine reports wins", what_the_engine_reports_wins},
      {"a call is costed when it ends", a_call_is_costed_when_it_ends},
      {"a reported cost that cannot be is not one", a_reported_cost_that_cannot_be_is_not_one},
      {"a record of the program's own is left alone", a_record_of_the_programs_own_is_left_alone},
      {"prices may change at any time", prices_may_change_at_any_time},
      {"a child has rules of its own", a_child_has_rules_of_its_own},
  };
  int result;
  store = check_open(":memory:");
  CHECK_OK(tj_store_subscribe(store, &error));
  result = CHECK_MAIN(tests);
  return tj_store_close(store, NULL) == TJ_OK ? result : 1;
}
