"""The faults, by name."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One fault."""

    file: str
    """Path in the repository."""
    old: str
    """Text that occurs in it exactly once."""
    new: str
    """The text that replaces it."""
    tests: str
    """The tests that must fail: arguments of pytest."""


FLOW, BATCHES, ALIGNMENT = "tests/test_flow.py", "tests/test_batches.py", "tests/test_alignment.py"
TRAINING, EVALUATION = "tests/test_training.py", "tests/test_evaluation.py"
FURTHER = "tests/test_further_methods.py"

FAULTS = {
    "the words of the generator's counter are swapped": Fault(
        file="selftrans/runtime/random.py",
        old="counter=[0, 0, minor, major]",
        new="counter=[0, 0, major, minor]",
        tests="tests/golden -k generator",
    ),
    "the stream is no part of the generator's key": Fault(
        file="selftrans/runtime/random.py",
        old="key=[seed, int(stream)]",
        new="key=[seed, 0]",
        tests=f"{BATCHES} -k never_meet",
    ),
    "the velocity has the sign of the noise's part turned": Fault(
        file="selftrans/flow/interpolant.py",
        old="return self.d_alpha(t) * z + self.d_sigma(t) * noise",
        new="return self.d_alpha(t) * z - self.d_sigma(t) * noise",
        tests=f"{FLOW} -k derivative",
    ),
    "the score has the sign of the velocity turned": Fault(
        file="selftrans/flow/interpolant.py",
        old="return -((1 - t) * velocity + x) / t",
        new="return ((1 - t) * velocity - x) / t",
        tests=f"{FLOW} -k score",
    ),
    "the interval of guidance is ignored": Fault(
        file="selftrans/flow/times.py",
        old="return scale != 1.0 and low - GUIDANCE_TOLERANCE <= t <= high + GUIDANCE_TOLERANCE",
        new="return scale != 1.0",
        tests=f"{FLOW} -k guidance_is_the_formula",
    ),
    "Heun's second evaluation is not guided": Fault(
        file="selftrans/flow/sampler.py",
        old="velocity(ahead, after, is_guided(now))",
        new="velocity(ahead, after, False)",
        tests=f"{FLOW} -k heun",
    ),
    "the last step of the SDE has noise": Fault(
        file="selftrans/flow/sampler.py",
        old="        if after > 0:\n            x = x + (diffusion",
        new="        if after >= 0:\n            x = x + (diffusion",
        tests=f"{FLOW} -k last_step",
    ),
    "the average is never updated": Fault(
        file="selftrans/training/trainer.py",
        old="mixed_precision, step, training)\n            ema.update()\n",
        new="mixed_precision, step, training)\n",
        tests=f"{TRAINING} -k recursion",
    ),
    "stage 1 ignores its range of times": Fault(
        file="selftrans/alignment/vae_alignment.py",
        old="rows, factor = batch.time_mask(self.t_range, self.t_masking)",
        new="rows, factor = slice(None), 1.0",
        tests=f"{ALIGNMENT} -k stage_1",
    ),
    "stage 2 ignores its range of times": Fault(
        file="selftrans/alignment/self_transcendence.py",
        old="rows, factor = batch.time_mask(self.t_range, self.t_masking)",
        new="rows, factor = slice(None), 1.0",
        tests=f"{ALIGNMENT} -k stage_2",
    ),
    "the released mask is that of a process's share of the batch": Fault(
        file="selftrans/alignment/base.py",
        old="_within(self.global_times, t_range).mean()",
        new="_within(self.times, t_range).mean()",
        tests="tests/test_time_masking.py -k parts_of_a_batch",
    ),
    "the teacher sees dropped labels": Fault(
        file="selftrans/alignment/self_transcendence.py",
        old="return batch.condition_B if given else batch.dropped_condition_B",
        new="return batch.dropped_condition_B",
        tests=f"{ALIGNMENT} -k stage_2",
    ),
    "the teacher is guided away from the label": Fault(
        file="selftrans/alignment/self_transcendence.py",
        old="unconditional.lerp(conditional, self",
        new="conditional.lerp(unconditional, self",
        tests=f"{ALIGNMENT} -k stage_2",
    ),
    "a mean over the samples in range instead of the batch": Fault(
        file="selftrans/alignment/base.py",
        old="return errors.sum() / batch_size",
        new="return errors.mean()",
        tests=f"{ALIGNMENT} -k stage_1",
    ),
    "LayerSync's deeper block is pulled, too": Fault(
        file="selftrans/alignment/layersync.py",
        old="return features[self.teacher_depth].detach()",
        new="return features[self.teacher_depth]",
        tests=f"{ALIGNMENT} -k no_gradient_goes",
    ),
    "VAE-REPA follows the noisy latents": Fault(
        file="selftrans/alignment/vae_repa.py",
        old="z_BCHW = batch.z_BCHW",
        new="z_BCHW = batch.x_BCHW",
        tests=f"{FURTHER} -k vae_repa",
    ),
    "iREPA subtracts all of the mean": Fault(
        file="selftrans/alignment/repa.py",
        old="tokens - self.subtracted_mean * mean",
        new="tokens - mean",
        tests=f"{FURTHER} -k irepa",
    ),
    "the dispersive loss leaves a sample's distance from itself out": Fault(
        file="selftrans/alignment/dispersive.py",
        old="- 2 * math.log(self.group_size)",
        new="- math.log(self.group_size * (self.group_size - 1))",
        tests=f"{FURTHER} -k dispersive",
    ),
    "Internal Guidance goes towards the earlier block": Fault(
        file="selftrans/flow/sampler.py",
        old="intermediate + self.scale * (velocity - intermediate)",
        new="velocity + self.scale * (intermediate - velocity)",
        tests="tests/test_internal_guidance.py -k samples_by_its_formula",
    ),
    "HASTE's encoder follows the student": Fault(
        file="selftrans/alignment/haste.py",
        old="attention_cross_entropy(features.attention_logits(depth), followed_logits[other])",
        new="attention_cross_entropy(followed_logits[other], features.attention_logits(depth))",
        tests="tests/test_haste.py -k formula",
    ),
    "momentum moves a projector whose term is over": Fault(
        file="selftrans/alignment/base.py",
        old="term.zero_grad(set_to_none=True)",
        new="term.zero_grad(set_to_none=False)",
        tests=f"{TRAINING} -k head_without_a_term",
    ),
    "a resumed training has lost the optimizer's moments": Fault(
        file="selftrans/training/progress.py",
        old="self.optimizer.state[parameter].update(on_device)",
        new="on_device.clear()",
        tests=f"{TRAINING} -k segments_equal",
    ),
    "dropped labels are class 0": Fault(
        file="selftrans/data/conditions.py",
        old="self.size, self.null = num_classes, np.array([num_classes], np.int64)",
        new="self.size, self.null = num_classes, np.array([0], np.int64)",
        tests=f"{BATCHES} -k dropped",
    ),
    "an image always shows its first caption": Fault(
        file="selftrans/data/conditions.py",
        old="return start + int(rng.integers(stop - start))",
        new="return start + 0 * int(rng.integers(stop - start))",
        tests="tests/text/test_caption_store.py -k drawn_at_every_visit",
    ),
    "a teacher of captions sees what was dropped": Fault(
        file="selftrans/alignment/self_transcendence.py",
        old='of_task = "given" if isinstance(term.shape.condition_size, int) else "student"',
        new='of_task = "given"',
        tests="tests/text/test_text_to_image.py -k teacher_sees",
    ),
    "the noise is that of the posterior": Fault(
        file="selftrans/training/batches.py",
        old="rng.standard_normal(dtype=np.float32, out=noise[row])",
        new="noise[row] = posterior_noise[row]",
        tests=f"{BATCHES} -k independent",
    ),
    "every epoch has the same order": Fault(
        file="selftrans/training/batches.py",
        old="generator(self.seed, Stream.ORDER, epoch)",
        new="generator(self.seed, Stream.ORDER)",
        tests=f"{BATCHES} -k epoch",
    ),
    "every process computes from the same index on": Fault(
        file="selftrans/training/batches.py",
        old="first = rank * accumulate * size",
        new="first = 0 * accumulate * size",
        tests=f"{BATCHES} -k share",
    ),
    "the number of processes is ignored": Fault(
        file="selftrans/training/batches.py",
        old="size = batch_size // (processes * accumulate)",
        new="size = batch_size // accumulate",
        tests=f"{BATCHES} -k share",
    ),
    "latents are scaled before they are shifted": Fault(
        file="selftrans/data/store.py",
        old="sample.sub_(shift).mul_(scale)",
        new="sample.mul_(scale).sub_(shift)",
        tests=f"{BATCHES} -k scaled_posterior",
    ),
    "images are cut off to whole numbers instead of rounded": Fault(
        file="selftrans/models/autoencoder.py",
        old="levels = (images * 127.5 + 127.5).round()",
        new="levels = images * 127.5 + 127.5",
        tests="tests/test_autoencoder.py -k uint8",
    ),
    "the crop is off by one": Fault(
        file="selftrans/data/sources/base.py",
        old="left, top = (image.width - size) // 2,",
        new="left, top = (image.width - size + 1) // 2,",
        tests="tests/test_image_files.py -k crop_is_adms",
    ),
    "the covariance is that of a population": Fault(
        file="selftrans/evaluation/statistics.py",
        old="np.outer(mean, mean)) / (self.count - 1)",
        new="np.outer(mean, mean)) / self.count",
        tests=f"{EVALUATION} -k streamed_moments",
    ),
    "chunks of the Inception score restart with each batch": Fault(
        file="selftrans/evaluation/statistics.py",
        old='self._add_scores(first, arrays["logits"])',
        new='self._add_scores(0, arrays["logits"])',
        tests=f"{EVALUATION} -k chunks_of_file_order",
    ),
    "the Fréchet distance has half of its last trace": Fault(
        file="selftrans/evaluation/metrics.py",
        old="- 2 * np.sqrt(middle).sum()",
        new="- np.sqrt(middle).sum()",
        tests=f"{EVALUATION} -k frechet",
    ),
    "the kernel distance is the biased estimate": Fault(
        file="selftrans/evaluation/metrics.py",
        old="(kernel.sum() - np.trace(kernel)) / (size * (size - 1))",
        new="kernel.sum() / size**2",
        tests=f"{EVALUATION} -k kid_is",
    ),
    "a training sees the images that are held out of it": Fault(
        file="selftrans/training/split.py",
        old="np.setdiff1d(np.arange(len(labels_N)), held_out)",
        new="np.arange(len(labels_N))",
        tests="tests/test_held_out.py -k visits_all_other_images",
    ),
    "the held-out loss is that of the raw weights": Fault(
        file="selftrans/training/trainer.py",
        old="held_out.row(step, ema.average)",
        new="held_out.row(step, raw_model.backbone)",
        tests="tests/test_held_out.py -k averaged_weights",
    ),
}
