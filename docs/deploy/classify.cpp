// Classify one image with ONNX Runtime's C++ API:  classify MODEL.onnx CLASSES.txt IMAGE.ppm
//
// MODEL.onnx is written by `export.py -e onnx --with_preprocessing`: its graph resizes, crops and normalises, so this program
// only hands over the pixels. With ONNX Runtime's release for C++ unpacked in $ORT:
//
//   g++ -std=c++17 -O2 classify.cpp -I $ORT/include -L $ORT/lib -lonnxruntime -Wl,-rpath,$ORT/lib -o classify
//
// A PPM needs no library to read; take any decoder that gives 8-bit RGB rows from the top.
#include <onnxruntime_cxx_api.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <stdexcept>
#include <string>
#include <vector>

struct Image {
    int64_t height = 0, width = 0;
    std::vector<uint8_t> pixels;  // height × width × 3
};

Image read_ppm(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    std::string kind;
    int most = 0;
    Image image;
    file >> kind >> image.width >> image.height >> most;
    if (!file || kind != "P6" || most != 255 || image.width < 1 || image.height < 1 || image.width * image.height > 100'000'000)
        throw std::runtime_error(path + " is no binary PPM of 8 bits");
    file.get();  // one byte of white space
    image.pixels.resize(image.height * image.width * 3);
    if (!file.read(reinterpret_cast<char*>(image.pixels.data()), image.pixels.size()))
        throw std::runtime_error(path + " is cut off");
    return image;
}

std::vector<std::string> read_lines(const std::string& path) {
    std::ifstream file(path);
    std::vector<std::string> lines;
    for (std::string line; std::getline(file, line);)
        if (!line.empty()) lines.push_back(line);
    return lines;
}

int classify(const std::string& model, const std::string& classes, const std::string& picture) {
    Image image = read_ppm(picture);
    std::vector<std::string> names = read_lines(classes);

    Ort::Env env(ORT_LOGGING_LEVEL_WARNING);
    Ort::Session session(env, std::filesystem::path(model).c_str(), Ort::SessionOptions{});
    std::array<int64_t, 4> shape{1, image.height, image.width, 3};
    auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
    auto input = Ort::Value::CreateTensor<uint8_t>(memory, image.pixels.data(), image.pixels.size(), shape.data(), shape.size());
    const char *in = "image", *out = "logits";
    auto outputs = session.Run(Ort::RunOptions{}, &in, &input, 1, &out, 1);

    const float* logits = outputs[0].GetTensorData<float>();
    size_t count = outputs[0].GetTensorTypeAndShapeInfo().GetElementCount();
    if (names.size() != count) throw std::runtime_error(classes + " names other classes than the model has");
    size_t best = std::max_element(logits, logits + count) - logits;
    double sum = 0;
    for (size_t i = 0; i < count; ++i) sum += std::exp(static_cast<double>(logits[i]) - logits[best]);
    std::printf("%s %.2f\n", names[best].c_str(), 1 / sum);
    return 0;
}

int main(int argc, char** argv) {
    if (argc != 4) return std::fprintf(stderr, "usage: classify MODEL.onnx CLASSES.txt IMAGE.ppm\n"), 2;
    try {
        return classify(argv[1], argv[2], argv[3]);
    } catch (const std::exception& error) {
        return std::fprintf(stderr, "error: %s\n", error.what()), 2;
    }
}
