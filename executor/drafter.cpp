#include "executor/drafter.h"

#include <algorithm>
#include <chrono>

namespace foretoken {

DraftTree::DraftTree(std::span<const int> widths) : widths_(widths.begin(), widths.end()) {
  parents_ = {-1};
  level_ = {0};
  first_ = {0};
  int begin = 0;
  for (int level = 0; level < static_cast<int>(widths_.size()); ++level) {
    const int end = nodes();
    first_.push_back(end);
    for (int node = begin; node < end; ++node)
      for (int i = 0; i < width(level); ++i) parents_.push_back(node), level_.push_back(level + 1);
    begin = end;
  }
}

int DraftTree::first_child(int node) const {
  const int level = level_[static_cast<std::size_t>(node)];
  return level == levels() ? nodes() : first(level + 1) + (node - first(level)) * width(level);
}

namespace {

class ModelDrafter final : public Drafter {
 public:
  ModelDrafter(const Speculation& s, const DraftTree& tree, const ExecutorOptions& options,
               std::size_t bytes_taken)
      : deployment_(*s.draft), tree_(tree), executable_(deployment_, s.draft_text, options, bytes_taken) {
    const Kernels& kernels = executable_.kernels();
    scratch_ = Arena(kernels.sampling_scratch(executable_.sampled_rows(), deployment_.model.vocab),
                     kernels.memory());
    scratch_bytes_ = scratch_.bytes(scratch_.size());
  }

  // The first pass takes the step's prompts and the newest tokens: of a sequence that decoded two, because
  // the cache has no entry of the last draft, should that have been accepted.
  void propose(std::size_t engine, std::span<const StepSequence> prompts,
               std::span<const DraftedSequence> sequences) override {
    model_ = &executable_.engine(engine).rank(0);
    work.clear(), operator_seconds.clear(), saved = 0;
    step_.assign(prompts.begin(), prompts.end());
    for (StepSequence& s : step_) s.sample = false;
    const std::size_t first = step_.size();
    drafting_.clear();
    for (const DraftedSequence& s : sequences) {
      s.drafts->clear();
      const auto size = static_cast<std::int64_t>(s.tokens->size()),
                 count = std::int64_t{s.prompt_ended ? 1 : 2};
      if (size > s.slots) continue;
      step_.push_back({{s.tokens->data() + (size - count), static_cast<std::size_t>(count)},
                       size - count,
                       s.blocks,
                       true,
                       true});
      drafting_.push_back({&s, 1, 0});
      s.drafts->resize(static_cast<std::size_t>(std::min<std::int64_t>(s.most, tree_.nodes() - 1)));
    }
    if (step_.empty()) return;
    run(first, 0);
    for (int level = 1; level < tree_.levels(); ++level) {
      step_.clear();
      const int begin = tree_.first(level), end = tree_.first(level + 1);
      for (Drafting& d : drafting_) {
        const std::vector<std::int32_t>& drafts = *d.sequence->drafts;
        d.rows = 0, d.first_node = begin;
        while (begin + d.rows < end && tree_.first_child(begin + d.rows) <= static_cast<int>(drafts.size()))
          ++d.rows;
        if (d.rows == 0) continue;
        const std::int64_t root = static_cast<std::int64_t>(d.sequence->tokens->size()) - 1;
        StepSequence s{{drafts.data() + begin - 1, static_cast<std::size_t>(d.rows)},
                       root + begin,
                       d.sequence->blocks,
                       true,
                       true};
        s.every_row = true;
        s.parents = tree_.parents().data();
        s.first_node = begin;
        step_.push_back(s);
      }
      if (step_.empty()) return;
      run(0, level);
    }
  }

  void accepted(std::size_t engine, const std::int32_t* blocks, std::int64_t root,
                std::span<const int> path) override {
    // The last one is computed again in the next pass.
    executable_.engine(engine).rank(0).move_path(blocks, root, path.first(path.size() - 1));
  }

 private:
  struct Drafting {
    const DraftedSequence* sequence;
    int rows, first_node;  // of the pass that runs
  };

  // Runs a pass and takes the children of the nodes of its sequences, which begin at step_[first].
  void run(std::size_t first, int level) {
    const auto logits = model_->step(step_);
    const std::int64_t vocab = deployment_.model.vocab,
                       rows = static_cast<std::int64_t>(logits.size()) / vocab;
    const int width = tree_.width(level);
    best_.resize(static_cast<std::size_t>(rows * width));
    const auto computed = std::chrono::steady_clock::now();
    executable_.kernels().best_tokens(logits.data(), rows, vocab, width, best_.data(), scratch_bytes_);
    const std::int32_t* best = best_.data();
    for (const Drafting& d : drafting_)
      for (int r = 0; r < d.rows; ++r, best += width) {
        std::vector<std::int32_t>& drafts = *d.sequence->drafts;
        const int child = tree_.first_child(d.first_node + r);
        const int count = std::min(width, static_cast<int>(drafts.size()) + 1 - child);
        if (count <= 0) continue;
        std::copy_n(best, count, drafts.begin() + child - 1);
      }
    operator_seconds["sampling"] +=
        std::chrono::duration<double>(std::chrono::steady_clock::now() - computed).count();
    Work w;
    for (std::size_t i = 0; i < step_.size(); ++i) {
      const StepSequence& s = step_[i];
      const auto n = static_cast<std::int64_t>(s.tokens.size());
      if (i < first) {
        w.prefill.push_back({n, s.cached, 1});
        continue;
      }
      ++w.decode_sequences;
      w.decode_queries = std::max(w.decode_queries, n);
      w.sampled_rows += s.every_row ? n : 1;
      w.padded_tokens += n;
      if (w.contexts.empty()) w.contexts.push_back(0);
      w.contexts[0] += static_cast<double>(s.cached + n);
    }
    for (const PrefillChunk& c : w.prefill) w.padded_tokens += c.new_tokens;
    work.push_back(std::move(w));
    for (const OperatorRun& o : model_->operators_run()) {
      operator_seconds[std::string(o.op.name)] += o.seconds;
      saved += o.all_seconds - o.seconds;
    }
  }

  const Deployment& deployment_;
  const DraftTree& tree_;
  Executable executable_;         // an engine, with a cache, for each of the target's
  Transformer* model_ = nullptr;  // of the step at hand
  std::vector<StepSequence> step_;
  std::vector<Drafting> drafting_;
  std::vector<std::int32_t> best_;
  Arena scratch_;  // of sampling
  std::byte* scratch_bytes_ = nullptr;
};

// Prompt lookup: what followed the longest of the last tokens' runs when it first occurred (vLLM's ngram).
class NgramDrafter final : public Drafter {
 public:
  NgramDrafter(const Speculation& s, const DraftTree& tree)
      : longest_(s.lookup_max), shortest_(s.lookup_min), count_(tree.nodes() - 1) {}

  void propose(std::size_t, std::span<const StepSequence>,
               std::span<const DraftedSequence> sequences) override {
    for (const DraftedSequence& s : sequences) {
      s.drafts->clear();
      const std::vector<std::int32_t>& t = *s.tokens;
      const auto size = static_cast<std::int64_t>(t.size());
      for (std::int64_t n = std::min<std::int64_t>(longest_, size - 1); n >= shortest_ && s.drafts->empty();
           --n)
        for (std::int64_t at = 0; at + n < size; ++at)
          if (std::equal(t.end() - n, t.end(), t.begin() + at)) {
            const std::int64_t count = std::min({std::int64_t{count_}, s.most, size - at - n});
            if (count > 0) s.drafts->assign(t.begin() + at + n, t.begin() + at + n + count);
            break;
          }
    }
  }

 private:
  int longest_, shortest_, count_;
};

}  // namespace

std::unique_ptr<Drafter> make_drafter(const Speculation& s, const DraftTree& tree,
                                      const ExecutorOptions& options, std::size_t bytes_taken) {
  if (s.method == Speculation::Method::kNgram) return std::make_unique<NgramDrafter>(s, tree);
  ExecutorOptions own = options;
  if (own.activations != "bf16") own.activations.clear();  // its weights have a format of their own
  own.fp8_scales.clear();
  own.weights = options.draft_weights;
  own.probe = false;  // the target's has one, if any
  return std::make_unique<ModelDrafter>(s, tree, own, bytes_taken);
}

}  // namespace foretoken
