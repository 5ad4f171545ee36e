// A fuzz target without a fuzzer: every file of a corpus, then N mutations of them, the same in every run.
// usage: fuzz_X CORPUS_DIR N
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <random>
#include <string>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

int main(int argc, char** argv) {
  if (argc != 3) return 2;
  std::vector<std::filesystem::path> paths;
  for (const auto& entry : std::filesystem::directory_iterator(argv[1])) paths.push_back(entry.path());
  std::sort(paths.begin(), paths.end());
  std::vector<std::string> corpus;
  for (const auto& path : paths) {
    std::ifstream in(path, std::ios::binary);
    corpus.emplace_back(std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>());
  }
  if (corpus.empty()) return 1;
  const auto run = [](const std::string& input) {
    LLVMFuzzerTestOneInput(reinterpret_cast<const std::uint8_t*>(input.data()), input.size());
  };
  for (const std::string& input : corpus) run(input);

  std::mt19937 engine(20250120);
  const auto below = [&](std::size_t n) { return n == 0 ? 0 : engine() % n; };
  const std::string pieces[] = {"\"",   "{",       "}",    "[", "]", "-1", "1e999", "18446744073709551616",
                                "null", "\\u0000", "\xff", ",", ":", "9"};
  for (int i = 0; i < std::atoi(argv[2]); ++i) {
    std::string input = corpus[below(corpus.size())];
    // Mostly in the first kilobytes: that is where headers are.
    const std::size_t reach = std::min<std::size_t>(input.size(), i % 4 == 0 ? input.size() : 3000);
    for (std::size_t n = 1 + below(4); n > 0 && !input.empty(); --n) {
      const std::size_t at = below(std::min(reach, input.size()));
      switch (below(6)) {
        case 0:
          input[at] = static_cast<char>(input[at] ^ (1 << below(8)));
          break;
        case 1:
          input[at] = static_cast<char>(engine());
          break;
        case 2:
          input.resize(at);
          break;
        case 3:
          input.insert(at, pieces[below(std::size(pieces))]);
          break;
        case 4:
          input.erase(at, below(40));
          break;
        default:
          input.insert(at, input.substr(below(input.size()), below(60)));
          break;
      }
    }
    run(input);
  }
  std::printf("%zu inputs and %s mutations\n", corpus.size(), argv[2]);
  return 0;
}
