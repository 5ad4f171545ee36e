// r1-quantize sensitivity MODEL OUT.json --text FILE
#pragma once

#include <atomic>

namespace r1::convert {

// argv[0] is "sensitivity". *stop ends the work with its state kept.
int main_sensitivity(int argc, char** argv, const std::atomic<bool>* stop);

}  // namespace r1::convert
