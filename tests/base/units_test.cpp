// Quantities: what compiles, how text is read, and how mistakes are answered.
#include "base/units.h"

#include <gmock/gmock.h>

#include <limits>
#include <type_traits>

#include "expect_error.h"

namespace foretoken {
namespace {

using test::error_of;
using testing::HasSubstr;

template <class A, class B>
concept Addable = requires(A a, B b) {
  a + b;
};
static_assert(std::is_same_v<decltype(Bytes(1) / BytesPerSecond(1)), Seconds>);
static_assert(std::is_same_v<decltype(Flops(1) / Seconds(1)), FlopsPerSecond>);
static_assert(std::is_same_v<decltype(BytesPerSecond(1) * Seconds(1)), Bytes>);
static_assert(std::is_same_v<decltype(Bytes(1) / Bytes(1)), double>);
static_assert(!Addable<Bytes, Seconds>);
static_assert(!std::is_convertible_v<double, Bytes>);

TEST(Units, TextIsReadExactly) {
  EXPECT_EQ(parse_bandwidth("4.8 TB/s", "x").value, 4.8e12);
  EXPECT_EQ(parse_bandwidth("600GB/s", "x").value, 600e9);
  EXPECT_EQ(parse_bandwidth("400 Gbit/s", "x").value, 50e9);
  EXPECT_EQ(parse_bytes("141 GB", "x").value, 141e9);
  EXPECT_EQ(parse_bytes(" 80 GiB ", "x").value, 80.0 * 1024 * 1024 * 1024);
  EXPECT_EQ(parse_bytes("1e3 MB", "x").value, 1e9);
  for (const char* rate : {"989.4 TFLOP/s", "989.4 TFLOPS", "989.4 TOPS", "989.4 TOP/s", "0.9894 PFLOP/s"})
    EXPECT_EQ(parse_flops_rate(rate, "x").value, 989.4e12) << rate;
  EXPECT_EQ(parse_duration("2.5 us", "x").value, 2.5e-6);
  EXPECT_EQ(parse_duration("2.5 \u00b5s", "x").value, 2.5e-6);
  EXPECT_EQ(parse_duration("1.5 s", "x").value, 1.5);
  EXPECT_EQ(parse_duration("2 min", "x").value, 120);
  EXPECT_EQ(parse_duration("0 s", "x").value, 0);
}

TEST(Units, MistakesAreAnsweredWithTheRightForm) {
  EXPECT_EQ(error_of([] { parse_bandwidth("600", "--bw"); }),
            "--bw: \"600\" has no unit; write a bandwidth such as \"600 GB/s\"");
  EXPECT_EQ(error_of([] { parse_bandwidth("600 GB", "--bw"); }),
            "--bw: \"GB\" is the unit of a size; write a bandwidth such as \"600 GB/s\"");
  EXPECT_THAT(error_of([] { parse_bandwidth("600 gb/s", "x"); }), HasSubstr("did you mean"));
  EXPECT_THAT(error_of([] { parse_bytes("80 parsec", "x"); }), HasSubstr("unknown unit \"parsec\""));
  EXPECT_THAT(error_of([] { parse_bytes("-1 GB", "x"); }), HasSubstr("negative"));
  EXPECT_THAT(error_of([] { parse_bytes("", "x"); }), HasSubstr("does not begin with a number"));
  EXPECT_THAT(error_of([] { parse_bytes("GB", "x"); }), HasSubstr("does not begin with a number"));
  EXPECT_THAT(error_of([] { parse_bytes("nan GB", "x"); }), HasSubstr("not a finite number"));
  EXPECT_THAT(error_of([] { parse_duration("inf s", "x"); }), HasSubstr("not a finite number"));
  EXPECT_THAT(error_of([] { parse_bytes("1e308 GB", "x"); }), HasSubstr("out of range"));
  EXPECT_THAT(error_of([] { parse_bytes("1e999 GB", "x"); }), HasSubstr("out of range"));
  EXPECT_THAT(error_of([] { parse_bytes("1,000 GB", "x"); }), HasSubstr("such as \"80 GiB\""));
}

TEST(Units, TextForPeople) {
  EXPECT_EQ(to_text(Bytes(131.4 * kGiB)), "131.4 GiB");
  EXPECT_EQ(to_text(Bytes(1023.99 * kMiB)), "1 GiB");
  EXPECT_EQ(to_text(Bytes(0)), "0 B");
  EXPECT_EQ(to_text(BytesPerSecond(4.8e12)), "4.8 TB/s");
  EXPECT_EQ(to_text(FlopsPerSecond(989.4e12)), "989 TFLOP/s");
  EXPECT_EQ(to_text(FlopsPerSecond(999.9e12)), "1 PFLOP/s");
  EXPECT_EQ(to_text(Seconds(0.01234)), "12.3 ms");
  EXPECT_EQ(to_text(Seconds(0)), "0 s");
  EXPECT_EQ(to_text(Seconds(90)), "90 s");
  EXPECT_EQ(count_text(70.55e9), "70.5 B");  // 70.55 is below 70.55 in binary
  EXPECT_EQ(count_text(1.24e6), "1.24 M");
  EXPECT_EQ(count_text(512), "512");
}

TEST(Units, PicosecondsRoundAndSaturate) {
  EXPECT_EQ(to_picoseconds(Seconds(1)), 1'000'000'000'000);
  EXPECT_EQ(to_picoseconds(Seconds(1.6e-12)), 2);
  EXPECT_EQ(to_picoseconds(Seconds(1e30)), std::numeric_limits<Picoseconds>::max());
  EXPECT_EQ(to_picoseconds(Seconds(-1e30)), std::numeric_limits<Picoseconds>::min());
  EXPECT_EQ(to_ms(1'500'000'000), 1.5);
}

}  // namespace
}  // namespace foretoken
