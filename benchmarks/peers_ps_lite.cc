// ps-lite as a peer: what each of its processes runs, as scheduler, server or worker (DMLC_ROLE).
//
// `push_pull.py --ps-lite DIR` compiles it together with the sources in DIR, a checkout of dmlc/ps-lite; peers.py says
// how. The whole vector is the value of one key. A push and the pull after it are one message each way, without copies
// on the worker's side but the one that ps-lite makes of what it has received, which is the best that it offers. The
// server makes one update after the other, and copies the weights for each worker, so that no pull mixes two versions.
// It needs no new memory for that: a worker that pushes has received all of what was sent to it before.

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <unordered_map>
#include <vector>

#include "ps/ps.h"

namespace {

struct Options {
  size_t parameters;
  double seconds;
  const char* file;  // int64 [workers, most]: when each worker began each of its round trips
  size_t most;
  float learning_rate, momentum, gradient;
};

int64_t Now() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return int64_t{1000000000} * now.tv_sec + now.tv_nsec;
}

class Server {
 public:
  explicit Server(const Options& options)
      : options_(options), weights_(options.parameters), velocity_(options.parameters), store_(0) {
    store_.set_request_handle([this](const ps::KVMeta& request, const ps::KVPairs<float>& pushed,
                                     ps::KVServer<float>*) { Answer(request, pushed); });
  }

 private:
  void Answer(const ps::KVMeta& request, const ps::KVPairs<float>& pushed) {
    if (request.push) Update(pushed.vals.data());
    ps::KVPairs<float> answer;
    answer.keys = pushed.keys;
    answer.vals = pulled_[request.sender];
    if (answer.vals.empty()) {
      answer.vals.resize(weights_.size());
      pulled_[request.sender] = answer.vals;
    }
    std::copy(weights_.begin(), weights_.end(), answer.vals.data());
    store_.Response(request, answer);
  }

  void Update(const float* __restrict gradient) {
    float* __restrict weights = weights_.data();
    float* __restrict velocity = velocity_.data();
    for (size_t i = 0; i < weights_.size(); ++i) {
      velocity[i] = options_.momentum * velocity[i] + gradient[i];
      weights[i] -= options_.learning_rate * velocity[i];
    }
  }

  const Options options_;
  std::vector<float> weights_, velocity_;
  std::unordered_map<int, ps::SArray<float>> pulled_;  // by worker
  ps::KVServer<float> store_;
};

void WaitForAll() { ps::Postoffice::Get()->Barrier(0, ps::kServerGroup + ps::kWorkerGroup); }

int64_t* Moments(const Options& options, int worker) {
  const size_t bytes = options.most * sizeof(int64_t) * ps::NumWorkers();
  const int file = open(options.file, O_RDWR);
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  CHECK(file >= 0 && memory != MAP_FAILED) << "cannot map " << options.file;
  close(file);
  return static_cast<int64_t*>(memory) + options.most * worker;
}

void Work(const Options& options) {
  ps::KVWorker<float> store(0, 0);
  const ps::SArray<ps::Key> keys(1, 0);
  const ps::SArray<float> gradient(options.parameters, options.gradient);
  ps::SArray<float> pulled(options.parameters, 0);
  int64_t* moments = Moments(options, ps::MyRank());
  WaitForAll();

  const int64_t end = Now() + static_cast<int64_t>(options.seconds * 1e9);
  size_t made = 0;
  for (; made < options.most; ++made) {
    moments[made] = Now();
    if (moments[made] >= end) break;
    store.Wait(store.ZPushPull(keys, gradient, &pulled));
  }
  ps::Postoffice::Get()->Barrier(0, ps::kWorkerGroup);
  store.Wait(store.ZPull(keys, &pulled));
  const auto extremes = std::minmax_element(pulled.begin(), pulled.end());
  std::printf("[%zu, %.9g, %.9g]\n", made, *extremes.first, *extremes.second);
  std::fflush(stdout);
}

}  // namespace

int main(int count, char** words) {
  if (count != 8) {
    std::fprintf(stderr, "it takes PARAMETERS SECONDS FILE MOST LEARNING_RATE MOMENTUM GRADIENT\n");
    return 2;
  }
  const Options options{std::strtoull(words[1], nullptr, 10), std::strtod(words[2], nullptr), words[3],
                        std::strtoull(words[4], nullptr, 10), std::strtof(words[5], nullptr),
                        std::strtof(words[6], nullptr),       std::strtof(words[7], nullptr)};
  ps::Start(0);
  if (ps::IsServer()) {
    auto* server = new Server(options);
    ps::RegisterExitCallback([server] { delete server; });
    WaitForAll();  // what came before the server is there would end it
  }
  if (ps::IsWorker()) Work(options);
  ps::Finalize(0, true);
  return 0;
}
