// Opens the model and says what it takes and gives.
#include <iostream>

#include <isthmus.hpp>

int main(int argc, char **argv) {
  if (argc < 2) return std::cerr << "usage: example_cpp WEIGHTS\n", 1;
  try {
    isthmus::Model model(std::string(argv[1]) == "-" ? "" : argv[1]);
    isthmus::Session session(model, 1);
    isthmus_info info;
    std::cout << model.name() << " for " << model.target() << "\n";
    for (int32_t i = 0; isthmus_input(model.get(), 0, i, &info) == ISTHMUS_OK; i++)
      std::cout << "in  " << info.name << " [" << info.dims << "]\n";
    for (int32_t i = 0; isthmus_output(model.get(), 0, i, &info) == ISTHMUS_OK; i++)
      std::cout << "out " << info.name << " [" << info.dims << "]\n";
    try {
      session.run({});
    } catch (const isthmus::Error &error) {
      std::cout << "without inputs: " << error.what() << "\n";
    }
  } catch (const isthmus::Error &error) {
    return std::cerr << error.what() << "\n", 1;
  }
}
