import torch

from robotics.policy.distilling import StudentTrainer, student_training
from robotics.policy.files import load_policy
from shared.sampling import sample
from shared.solvers.ddim import DDIM
from tests.robotics.policy.test_policy import small_policy
from tests.robotics.policy.test_training import MLP, circles


def test_student_starts_from_the_teacher_learns_its_sampling_and_is_an_ordinary_policy(tmp_path):
    teacher = small_policy(MLP)
    settings = student_training("robotics/student", teacher, steps=60)
    trainer = StudentTrainer(teacher, settings, circles(), tmp_path, calls=4)
    for name, value in teacher.network.state_dict().items():
        assert torch.equal(trainer.network.state_dict()[name], value)
    generator = torch.Generator().manual_seed(1)
    frames = trainer._train[:64]
    observations = teacher.observation.undo(trainer._observations[frames[:, : teacher.config.chunk.observe]])
    noise = teacher.noise(len(frames), generator)
    wanted = sample(teacher.denoiser(observations), noise, teacher.grid(4), DDIM())

    def distance(policy) -> float:
        return float((policy.denoiser(observations)(noise, 1.0) - wanted).square().mean().sqrt())

    before = distance(trainer.policy)
    trainer.run()
    trainer.export(tmp_path / "student.safetensors")
    student = load_policy(tmp_path / "student.safetensors")
    assert student.config == teacher.config.model_copy(update={"prediction": "v"})
    assert torch.equal(student.action.scale, teacher.action.scale)
    assert distance(student) < 0.8 * before
