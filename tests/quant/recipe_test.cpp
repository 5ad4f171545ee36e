// Recipes: the format of every class of tensor, as FORMAT.md's table of recipes has it.
#include "quant/recipe.h"

#include <doctest/doctest.h>

#include <string>
#include <vector>

using namespace r1::quant;

namespace {

using C = TensorClass;

std::string name_of(const Recipe& recipe, const TensorPlace& place) {
  return info(choose_format(recipe, place)).name;
}

// R1: 61 layers, the first three dense.
TensorPlace moe(TensorClass tensor_class, int layer = 30) {
  return {.tensor_class = tensor_class, .layer = layer, .n_layers = 61, .first_moe_layer = 3};
}

TensorPlace qwen(TensorClass tensor_class, bool small = false) {
  return {.tensor_class = tensor_class, .layer = 5, .n_layers = 28, .dense_model = true, .small_model = small};
}

}  // namespace

TEST_CASE("recipes are known by their names, smallest first") {
  const std::vector<std::string> names = {"r2.2s", "r2.2", "r2.5", "r2.7", "r3.5", "r4.5", "w8", "exact"};
  REQUIRE(recipes().size() == names.size());
  for (std::size_t i = 0; i < names.size(); ++i) {
    CHECK(recipes()[i].name == names[i]);
    CHECK(find_recipe(names[i]) == &recipes()[i]);
  }
  for (const char* unknown : {"", "r2", "r2.2S", "r2.2 ", "t4"}) CHECK(find_recipe(unknown) == nullptr);
}

TEST_CASE("formats of a mixture-of-experts model") {
  struct Row {
    const char* recipe;
    const char *gate_up, *down, *edge_down;           // edge: the outermost MoE layer
    const char *q_b, *o, *shared, *dense, *low_rank;  // low_rank: q_a, kv_a, kv_b
    const char *embed, *head;
  };
  for (const Row& row : {
           Row{"r2.2s", "t2", "t2", "t2", "t4h", "t4h", "t4h", "t4h", "w8", "t4h", "nl6"},
           Row{"r2.2", "t2", "t2", "t3", "t5", "t5", "t5", "t5", "w8", "t4h", "nl6"},
           Row{"r2.5", "t2", "t3", "t3", "t5", "t5", "t5", "t5", "w8", "t4h", "nl6"},
           Row{"r2.7", "t2_5", "t2_5", "t3", "t5", "t5", "t5", "t5", "w8", "t4h", "nl6"},
           Row{"r3.5", "t3", "t4", "t4", "t5", "t5", "t5", "t5", "w8", "t4h", "nl6"},
           Row{"r4.5", "t4", "t5", "t5", "w8", "nl6", "nl6", "nl6", "w8", "w8", "w8"},
           Row{"w8", "w8", "w8", "w8", "w8", "w8", "w8", "w8", "w8", "w8", "w8"},
           Row{"exact", "f32", "f32", "f32", "f32", "f32", "f32", "f32", "f32", "f32", "f32"},
       }) {
    CAPTURE(std::string(row.recipe));
    const Recipe& recipe = *find_recipe(row.recipe);
    const std::string name = row.recipe;
    CHECK(name_of(recipe, moe(C::routed_gate_up)) == row.gate_up);
    CHECK(name_of(recipe, moe(C::routed_down)) == row.down);
    CHECK(name_of(recipe, moe(C::q_b)) == row.q_b);
    CHECK(name_of(recipe, moe(C::o)) == row.o);
    CHECK(name_of(recipe, moe(C::shared_expert)) == row.shared);
    CHECK(name_of(recipe, moe(C::dense_gate_up, 0)) == row.dense);
    CHECK(name_of(recipe, moe(C::dense_down, 0)) == row.dense);
    for (const C c : {C::q_a, C::kv_a, C::kv_b}) CHECK(name_of(recipe, moe(c)) == row.low_rank);
    CHECK(name_of(recipe, moe(C::embed, -1)) == row.embed);
    CHECK(name_of(recipe, moe(C::head, -1)) == row.head);
    CHECK(name_of(recipe, moe(C::norm)) == "f32");
    CHECK(name_of(recipe, moe(C::router)) == (name == "exact" ? "f32" : "bf16"));

    // How many layers at either end have the finer down projection: 3 in r2.2, 6 in r2.7.
    const int n_outer = name == "r2.2" ? 3 : name == "r2.7" ? 6 : 0;
    for (int layer = 3; layer < 61; ++layer) {
      CAPTURE(layer);
      const bool outer = layer < 3 + n_outer || layer >= 61 - n_outer;
      CHECK(name_of(recipe, moe(C::routed_down, layer)) == (outer ? row.edge_down : row.down));
      CHECK(name_of(recipe, moe(C::routed_gate_up, layer)) == row.gate_up);
    }

    // The MTP layer: experts t4h, eh_proj w8, the rest as common, below w8.
    auto mtp = [](C c) {
      TensorPlace place = moe(c, 61);
      place.in_mtp_layer = true;
      return place;
    };
    const bool below_w8 = name != "w8" && name != "exact";
    for (const C c : {C::routed_gate_up, C::routed_down})
      CHECK(name_of(recipe, mtp(c)) == (below_w8 ? "t4h" : name == "w8" ? "w8" : "f32"));
    CHECK(name_of(recipe, mtp(C::eh_proj)) == (name == "exact" ? "f32" : "w8"));
  }
}

TEST_CASE("formats of a dense model") {
  struct Row {
    const char *recipe, *gate_up, *down, *q_k_o, *v, *embed, *head, *small_embed, *small_head;
  };
  for (const Row& row : {
           Row{"r2.2s", "t2", "t2_5", "t2_5", "t3", "t4h", "nl6", "t5", "nl6"},
           Row{"r2.2", "t2", "t2_5", "t2_5", "t3", "t4h", "nl6", "t5", "nl6"},
           Row{"r2.5", "t2", "t2_5", "t2_5", "t3", "t4h", "nl6", "t5", "nl6"},
           Row{"r2.7", "t2_5", "t3", "t3", "t3_5", "t4h", "nl6", "t5", "nl6"},
           Row{"r3.5", "t3", "t3_5", "t3_5", "t4", "t4h", "nl6", "t5", "nl6"},
           Row{"r4.5", "t4", "t5", "t5", "nl6", "w8", "w8", "w8", "w8"},
           Row{"w8", "w8", "w8", "w8", "w8", "w8", "w8", "w8", "w8"},
           Row{"exact", "f32", "f32", "f32", "f32", "f32", "f32", "f32", "f32"},
       }) {
    CAPTURE(std::string(row.recipe));
    const Recipe& recipe = *find_recipe(row.recipe);
    CHECK(name_of(recipe, qwen(C::dense_gate_up)) == row.gate_up);
    CHECK(name_of(recipe, qwen(C::dense_down)) == row.down);
    for (const C c : {C::q, C::k, C::o}) CHECK(name_of(recipe, qwen(c)) == row.q_k_o);
    CHECK(name_of(recipe, qwen(C::v)) == row.v);
    CHECK(name_of(recipe, qwen(C::embed)) == row.embed);
    CHECK(name_of(recipe, qwen(C::head)) == row.head);
    CHECK(name_of(recipe, qwen(C::embed, true)) == row.small_embed);
    CHECK(name_of(recipe, qwen(C::head, true)) == row.small_head);
    CHECK(name_of(recipe, qwen(C::norm)) == "f32");
  }
}

TEST_CASE("exact keeps BF16 sources as they are, norms in f32") {
  const Recipe& exact = *find_recipe("exact");
  for (const C c : {C::embed, C::head, C::router, C::routed_down, C::q_b, C::v, C::eh_proj}) {
    TensorPlace place = moe(c);
    CHECK(name_of(exact, place) == "f32");
    place.source_is_bf16 = true;
    CHECK(name_of(exact, place) == "bf16");
  }
  TensorPlace norm = moe(C::norm);
  norm.source_is_bf16 = true;
  CHECK(name_of(exact, norm) == "f32");
}
