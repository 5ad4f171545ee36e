// Recipe files: a mix as JSON.
//
//   {
//     "r1_recipe": 1,
//     "name": "my-mix",
//     "summary": "for people",
//     "base": "r2.7",
//     "formats": {"embed": "t5", "routed_down": {"3-8": "t3", "9-60": "t2_5"}}
//   }
//
// `formats` gives a tensor class (quant::class_name) one format in all its layers, or formats by layers: "3" or "3-8",
// counted as in the checkpoint, MTP layers behind the others. A format is one of FORMAT.md's, or "exact": bf16 where
// the checkpoint has that, else f32. What is not named comes from `base`, a hand-made recipe; without one everything
// must be named but norms, always f32, and the router, bf16 unless f32 or exact is asked for. `name`, `summary` and
// `base` may be left out.
#pragma once

#include <r1/result.h>

#include <string>
#include <string_view>

#include "convert/mix.h"

namespace r1::convert {

// The text of a recipe file, for a model of this config. `where` names it in errors.
[[nodiscard]] Result<Mix> parse_recipe(std::string_view text, const rt::ModelConfig& config, const std::string& where);
[[nodiscard]] Result<Mix> load_recipe(const std::string& path, const rt::ModelConfig& config);

// Complete, without a base; read back it is the same mix.
[[nodiscard]] std::string recipe_text(const Mix& mix);

}  // namespace r1::convert
