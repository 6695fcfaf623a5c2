// Laws of what the lookup interpolates with: kriging weights, the models that rows are compared with, and
// tables of one and of two engines.
#include <gtest/gtest.h>

#include <cmath>

#include "built_in.h"
#include "hwdb/gemm_model.h"
#include "hwdb/kernel_index.h"
#include "hwdb/kriging.h"
#include "hwdb/shape_tables.h"
#include "hwdb/trend.h"

namespace foretoken {
namespace {

constexpr double kRange = 4;

Neighbours around(const Coordinates& query, const std::vector<Coordinates>& places, double nugget,
                  std::size_t most = 8) {
  Neighbours near(query, most, 10, kRange, nugget);
  for (std::size_t i = 0; i < places.size(); ++i) near.offer(places[i], static_cast<int>(i));
  near.solve();
  return near;
}

double weight_of(const Neighbours& near, int shape) {
  for (std::size_t i = 0; i < near.size(); ++i)
    if (near.entry(i).shape == shape) return near.weight(i);
  return 0;
}

const std::vector<Coordinates> kPlaces = {{0, 0}, {1, 0.5}, {-2, 1}, {0.3, -1}, {2, 2}};

TEST(Kriging, WeightsSumToOne) {
  for (const double nugget : {0.0, 0.02, 0.5})
    for (const Coordinates& query : {Coordinates{0.4, 0.4}, Coordinates{-1, 3}, Coordinates{5, 0}}) {
      const Neighbours near = around(query, kPlaces, nugget);
      double sum = 0;
      for (std::size_t i = 0; i < near.size(); ++i) sum += near.weight(i);
      EXPECT_NEAR(sum, 1, 1e-9);
    }
}

TEST(Kriging, WithoutANuggetAPlaceThatWasMeasuredIsItsOwnAnswer) {
  for (std::size_t i = 0; i < kPlaces.size(); ++i) {
    const Neighbours near = around(kPlaces[i], kPlaces, 0);
    for (std::size_t k = 0; k < kPlaces.size(); ++k)
      EXPECT_NEAR(weight_of(near, static_cast<int>(k)), i == k ? 1 : 0, 1e-9);
  }
}

TEST(Kriging, EqualDistancesOnBothSidesWeighTheSame) {
  const Neighbours near = around({0, 0}, {{1, 0}, {-1, 0}, {0, 1}, {0, -1}}, 0.02);
  for (int i = 0; i < 4; ++i) EXPECT_NEAR(weight_of(near, i), 0.25, 1e-9);
}

TEST(Kriging, TheOrderOfOffersDoesNotMatter) {
  std::vector<Coordinates> reversed(kPlaces.rbegin(), kPlaces.rend());
  const Neighbours a = around({0.4, 0.2}, kPlaces, 0.02), b = around({0.4, 0.2}, reversed, 0.02);
  for (int i = 0; i < 5; ++i) EXPECT_NEAR(weight_of(a, i), weight_of(b, 4 - i), 1e-9);
}

TEST(Kriging, AShapeBehindAnotherCountsLittle) {
  const Neighbours near = around({0}, {{1}, {1.2}, {-1}}, 0.0);
  EXPECT_GT(weight_of(near, 2), weight_of(near, 0));  // alone on its side
  EXPECT_LT(std::abs(weight_of(near, 1)), 0.1);
}

TEST(Kriging, OnlyTheNearestOfManyAndNoneBeyondTheFarthest) {
  Neighbours near({0}, 2, 3.0, kRange, 0.02);
  for (const double x : {2.5, 0.5, 5.0, 1.5}) near.offer({x}, static_cast<int>(10 * x));
  ASSERT_EQ(near.size(), 2u);
  EXPECT_EQ(near.entry(0).shape, 5);
  EXPECT_EQ(near.entry(1).shape, 15);
  EXPECT_DOUBLE_EQ(near.nearest(), 0.5);
}

TEST(Kriging, ADoubtfulNeighbourCountsLess) {
  const auto share = [](double doubt) {
    Neighbours near({0, 0}, 8, 10, kRange, 0.0);
    near.offer({-1, 0}, 0, 0, doubt);
    near.offer({1, 0}, 1);
    near.solve();
    return weight_of(near, 0);
  };
  EXPECT_NEAR(share(0), 0.5, 1e-12);
  EXPECT_LT(share(0.2), 0.49);
  EXPECT_LT(share(0.5), share(0.2));
}

TEST(Trend, RecoversItsOwnFloorAndSlope) {
  const double floor = 4e-6, slope = 1.7;
  std::vector<std::pair<double, double>> rows;
  for (int i = -30; i <= 20; ++i) {
    const double limit = 1e-6 * std::exp2(i / 3.0);
    rows.emplace_back(std::log(limit), std::log(floor + slope * limit));
  }
  Trend trend;
  trend.fit(rows);
  for (const auto& [limit, time] : rows) EXPECT_NEAR(trend.log_time(limit), time, 0.03);
}

TEST(Trend, FewRowsLeaveTheSpeedOfLight) {
  Trend trend;
  trend.fit(std::vector<std::pair<double, double>>{{0.0, 1.0}, {1.0, 2.0}});
  EXPECT_DOUBLE_EQ(trend.log_time(3.0), 3.0);
}

class GemmModels : public testing::Test {
 protected:
  Device h100 = test::built_in().device("h100");
  GemmShape like{.m = 1, .n = 1, .k = 1};
  std::vector<GemmSample> rows_of(const GemmModel& model) {
    std::vector<GemmSample> rows;
    for (double m = 1; m <= 8192; m *= 2)
      for (const double n : {512.0, 2048.0, 8192.0, 28672.0})
        for (const double k : {512.0, 4096.0, 16384.0}) rows.push_back({m, n, k, 1, model.time(m, n, k, 1)});
    return rows;
  }
};

TEST_F(GemmModels, RecoverTheirOwnTimesFromSyntheticRows) {
  GemmModel truth(h100, like);
  truth.set({std::log(4.0), std::log(0.7), std::log(0.6), std::log(40.0), std::log(2.0)});
  GemmModel fitted(h100, like);
  const auto rows = rows_of(truth);
  fitted.fit(rows);
  double sum = 0;
  for (const GemmSample& r : rows) sum += std::abs(std::log(fitted.time(r.m, r.n, r.k, r.batch) / r.seconds));
  EXPECT_LT(sum / static_cast<double>(rows.size()), 0.02);
  EXPECT_NEAR(fitted.parameters()[0], truth.parameters()[0], 0.1);  // launch floor
  EXPECT_NEAR(fitted.parameters()[1], truth.parameters()[1], 0.1);  // share of the bandwidth
}

TEST_F(GemmModels, TimesGrowWithEachSideAndExceedTheLimit) {
  const GemmModel model(h100, like);
  for (double m = 1; m <= 4096; m *= 2) {
    EXPECT_GT(model.time(m, 4096, 4096, 1), model.limit(m, 4096, 4096, 1));
    EXPECT_LE(model.time(m, 4096, 4096, 1), model.time(2 * m, 4096, 4096, 1) * (1 + 1e-12));
    EXPECT_LE(model.time(m, 4096, 4096, 1), model.time(m, 8192, 4096, 1) * (1 + 1e-12));
    EXPECT_LE(model.time(m, 4096, 4096, 1), model.time(m, 4096, 8192, 1) * (1 + 1e-12));
  }
}

// Of a device whose multiprocessors are half as fast, else the same: a single row's time is memory's, and a
// small tile's latency is not doubled.
TEST_F(GemmModels, ASlowerMultiplierOfTheArchitectureDoesNotSlowSmallTiles) {
  const GemmModel donor(h100, like);
  GemmModel same(h100, like);
  same.borrow(donor);
  Device half = h100;
  half.fp16_peak = half.fp16_peak * 0.5;
  GemmModel slower(half, like), scaled(half, like);
  slower.borrow(donor);
  scaled.set(donor.parameters());
  for (double m = 1; m <= 8192; m *= 2)
    for (const double n : {512.0, 4096.0, 28672.0}) {
      EXPECT_DOUBLE_EQ(same.time(m, n, 4096, 1), donor.time(m, n, 4096, 1));
      EXPECT_GE(slower.time(m, n, 4096, 1), donor.time(m, n, 4096, 1) * (1 - 1e-12));
      EXPECT_LE(slower.time(m, n, 4096, 1), scaled.time(m, n, 4096, 1) * (1 + 1e-12));
    }
  EXPECT_LT(slower.time(1, 28672, 4096, 1), scaled.time(1, 28672, 4096, 1));
}

// Every engine's times are the first one's times a factor that is the same for all shapes.
TEST_F(GemmModels, AnotherEnginesRowTimesHowTheEnginesDiffer) {
  const GemmModel truth(h100, like);
  GemmTable own, other;
  own.set_model(truth), other.set_model(truth);
  const std::int64_t held_n = 3072, held_k = 3072;
  for (const std::int64_t n : {1024, 2048, 3072, 4096, 8192})
    for (const std::int64_t k : {1024, 2048, 3072, 4096, 8192})
      for (const std::int64_t m : {1, 16, 256, 4096}) {
        const auto dm = static_cast<double>(m), dn = static_cast<double>(n), dk = static_cast<double>(k);
        // A quirk of this one shape, which both engines have.
        const double quirk = n == held_n && k == held_k ? 1.4 : 1.0;
        const double limit = truth.limit(dm, dn, dk, 1), time = quirk * truth.time(dm, dn, dk, 1);
        other.add(n, k, 1, m, time, 0, limit);
        if (quirk == 1.0) own.add(n, k, 1, m, 1.25 * time, 0, limit);
      }
  own.finish(), other.finish();
  const Beside<GemmTable> beside(own, other);
  EXPECT_EQ(beside.common, 24u);
  for (const double m : {1.0, 16.0, 256.0, 4096.0}) {
    const auto paired = own.blend(held_n, held_k, 1, m, &beside), alone = own.blend(held_n, held_k, 1, m);
    ASSERT_TRUE(paired && alone);
    const auto d = static_cast<double>(held_n);
    const double actual = 1.25 * 1.4 * truth.time(m, d, d, 1);
    const double limit = truth.limit(m, d, d, 1);
    EXPECT_NEAR(limit / std::exp(paired->log_utilisation), actual, 1e-6 * actual);
    EXPECT_GT(std::abs(std::log(limit / std::exp(alone->log_utilisation) / actual)), 0.2);
  }
  EXPECT_FALSE(own.blend(3000, 3000, 1, 16, &beside));  // the other engine has no row of it either
}

TEST(MoeTables, AnUntunedShardTeachesNoOther) {
  MoeTable table;
  const auto seconds = [](std::int64_t inter, std::int64_t local, std::int64_t tokens) {
    return 2e-5 + 1e-9 * static_cast<double>(inter * local * (tokens + 64));
  };
  for (const std::int64_t inter : {256, 512, 1024, 2048})
    for (const std::int64_t local : {8, 16, 32, 64})
      for (const std::int64_t tokens : {1, 16, 64, 256, 1024}) {
        const bool bad = inter == 1024 && local == 32;
        const double t = seconds(inter, local, tokens);
        table.add({4096, inter, 8, 64, local, 1, 0}, tokens, bad ? 6 * t : t, 0, t / 2);
      }
  table.finish();
  int untuned = 0;
  for (const auto& s : table.shapes()) {
    untuned += s.untuned;
    EXPECT_EQ(s.untuned, s.key[1] == 1024 && s.key[4] == 32);
  }
  EXPECT_EQ(untuned, 1);
  const MoeTable::Key wanted = {4096, 1280, 8, 64, 32, 1, 0};
  const double truth = seconds(1280, 32, 64);
  const auto near = table.nearest(wanted, 64, truth / 2);
  ASSERT_TRUE(near);
  EXPECT_NEAR(truth / 2 / std::exp(near->log_utilisation), truth, 0.15 * truth);
  // Its own rows stand.
  const int own = table.find_exact({4096, 1024, 8, 64, 32, 1, 0});
  ASSERT_NE(own, kNoShape);
  EXPECT_DOUBLE_EQ(table.at(own, 64).seconds, 6 * seconds(1024, 32, 64));
}

TEST(Curves, RepeatsAreAveragedAndSpread) {
  Curve curve;
  curve.add(16, 1e-5, 0, 1e-6);
  curve.add(16, 4e-5, 0, 1e-6);
  curve.finish();
  ASSERT_EQ(curve.size(), 1u);
  EXPECT_NEAR(curve.seconds(0), 2e-5, 1e-12);
  EXPECT_NEAR(curve.at(16).spread, std::log(4.0) / std::sqrt(2.0), 1e-9);
}

TEST(AttentionTables, AMeasuredPointIsExactAndBetweenSequencesTheTimeLiesBetween) {
  AttentionTable table;
  const AttentionTable::Heads heads{32, 8, 128, 0};
  const auto limit = [](double b, double t) { return 1e-9 * b * t; };
  for (const std::int64_t b : {1, 4, 16})
    for (const std::int64_t t : {128, 512, 2048}) {
      const double sol = limit(static_cast<double>(b), static_cast<double>(t));
      table.add(heads, b, t, 3e-6 + 2 * sol, 0, sol);
    }
  table.finish();
  const int layout = table.find_layout(heads);
  ASSERT_NE(layout, kNoShape);
  EXPECT_DOUBLE_EQ(table.at(layout, 4, 512).seconds, 3e-6 + 2 * limit(4, 512));
  const Reading between = table.at(layout, 8, 512);
  EXPECT_FALSE(between.exact);
  // A floor and a slope are what the trend is made of, so it is right between them too.
  EXPECT_NEAR(limit(8, 512) / std::exp(between.log_utilisation), 3e-6 + 2 * limit(8, 512),
              0.03 * (3e-6 + 2 * limit(8, 512)));
}

// Time over the limit that a layout of `heads` over 8 gets at 4 sequences, where two layouts are known:
// `alike` takes 1.5 times the limit, `other` 3 times.
double between_layouts(std::int64_t heads, std::int64_t alike, std::int64_t other, bool moves_queries,
                       std::int64_t alike_kv = 8) {
  AttentionTable table;
  table.set_decode(true);
  table.set_moves_queries(moves_queries);
  const auto limit = [](double b, double t) { return 1e-6 * b * t; };
  for (const auto& [h, kv, times] :
       {std::tuple(alike, alike_kv, 1.5), std::tuple(other, std::int64_t{8}, 3.0)})
    for (const std::int64_t b : {1, 2, 4, 8, 16, 32})
      for (const std::int64_t t : {128, 512, 2048}) {
        const double sol = limit(static_cast<double>(b), static_cast<double>(t));
        table.add({h, kv, 128, 0}, b, t, times * sol, 0, sol);
      }
  table.finish();
  const auto reading = table.nearest({heads, 8, 128, 0}, 4, 512, limit(4, 512));
  return reading ? std::exp(-reading->log_utilisation) : 0;
}

TEST(AttentionTables, DecodingLayoutsThatFillTheSameTileOfQueriesAreAlike) {
  // 6 and 2 query heads of a KV head share the tile of 8; 12 are nearer to 6 in number but take the next
  // tile.
  EXPECT_LT(between_layouts(48, 16, 96, false), 2.2);
}

TEST(AttentionTables, MovedQueriesAreComparedWithMovedQueries) {
  // The layout of one KV head moves no queries where the other two do, so it teaches less.
  EXPECT_GT(between_layouts(32, 4, 64, true, 1), between_layouts(32, 4, 64, false, 1));
}

}  // namespace
}  // namespace foretoken
